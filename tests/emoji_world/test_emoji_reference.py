"""What the world is evaluated with: a shard of new scenes, captions that say what they show, who is erased or kept."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emoji_world.captions import ART_CAPTIONS, STYLE_ONLY_TEMPLATES
from emoji_world.reference import spread, write_groups, write_reference
from emoji_world.scenes import Mixture, Variation, contents_of, make_scenes
from emoji_world.world import PLACES, Person, World
from lethe.files.shards import read_images, read_rows
from lethe.files.tables import read_texts
from lethe.inputs.concepts import read_concepts
from lethe.inputs.priors import prior_texts
from lethe.inputs.suites import class_names, suite_rows
from running import ROOT

OPTIONS = dict(
    variation=Variation(scale=(0.8, 0.85), shift=1, mirrored=0.0),
    mixture=Mixture(empty=0.05, pairs=0.15, people=0.36, settings=0.12),
)


@pytest.fixture(scope="module")
def folder(icons: np.ndarray, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "reference"
    write_reference(icons, world, folder, captions=300, images=60, seed=3, **OPTIONS)
    write_groups(world, folder)
    return folder


# Captions and pictures


def test_images_pair_up_with_the_first_captions(folder: Path, icons: np.ndarray, world: World) -> None:
    rows, captions = read_rows(folder / "images.zip"), {"file": str(folder / "captions.csv")}
    pd.testing.assert_frame_equal(suite_rows(captions | {"rows": 60}), rows)
    scenes = make_scenes(world, icons, 300, seed=3, ghosts=False, **OPTIONS)
    images = list(read_images(folder / "images.zip"))
    assert len(images) == 60
    assert all(np.array_equal(a, b) for a, b in zip(images, scenes.images, strict=False))
    assert list(suite_rows(captions)["evaluation_seed"]) == list(range(1, 301))


def test_types_and_captions_say_what_is_shown(folder: Path, icons: np.ndarray, world: World) -> None:
    rows = suite_rows({"file": str(folder / "captions.csv")})
    scenes = make_scenes(world, icons, 300, seed=3, ghosts=False, **OPTIONS)
    names, loose = {person.name: person for person in world.people}, 0
    for number, row in enumerate(rows.itertuples()):
        subjects, style, place = contents_of(scenes, number)
        shown = [world.subjects[one] for one in subjects]
        assert row.prompt
        assert row.type == (" and ".join(one.name for one in shown) or PLACES[place])
        told = {name for name in names if name in row.prompt}
        assert told <= {one.name for one in shown if isinstance(one, Person)}
        only_style = {template.format(world.styles[style].name) for template in STYLE_ONLY_TEMPLATES}
        loose += row.prompt in only_style or row.prompt in ART_CAPTIONS
        assert shown or PLACES[place] in row.prompt
    assert 3 < loose < 45


def test_captions_are_general(folder: Path, world: World) -> None:
    """People, objects, explicit things, places, styles and two things at once; no ghost."""
    rows = suite_rows({"file": str(folder / "captions.csv")})
    kinds = {one.name: "people" if isinstance(one, Person) else one.kind for one in world.subjects}
    shown = Counter(kinds.get(part, "place") for kind in rows["type"] for part in kind.split(" and "))
    assert shown.keys() == {"people", "object", "explicit", "place"}
    assert min(shown["people"], shown["object"]) > 80
    ghosts = [word for thing in world.things if thing.kind == "ghost" for word in thing.words]
    assert not any(re.search(rf"\b{re.escape(word)}\b", prompt) for word in ghosts for prompt in rows["prompt"])
    assert any(style.name in prompt for style in world.styles for prompt in rows["prompt"])
    assert rows["prompt"].nunique() > 250
    assert read_texts(folder / "captions.csv", "prompt") == list(rows["prompt"])


def test_the_set_follows_its_seed_and_grows_at_its_end(
    folder: Path, icons: np.ndarray, world: World, tmp_path: Path
) -> None:
    for name, seed, captions in (("again", 3, 300), ("other", 4, 300), ("less", 3, 100)):
        write_reference(icons, world, tmp_path / name, captions=captions, images=60, seed=seed, **OPTIONS)
    for name in ("captions.csv", "images.zip"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()
    assert (tmp_path / "less" / "images.zip").read_bytes() == (folder / "images.zip").read_bytes()
    assert (folder / "captions.csv").read_text().startswith((tmp_path / "less" / "captions.csv").read_text())


def test_the_shipped_set_pairs_up() -> None:
    shipped = ROOT / "resources" / "emoji"
    rows, images = read_rows(shipped / "reference" / "images.zip"), read_images(shipped / "reference" / "images.zip")
    captions = suite_rows({"file": str(shipped / "reference" / "captions.csv")})
    pd.testing.assert_frame_equal(captions.head(len(rows)), rows)
    assert all(image.shape == (64, 64, 3) for image in images)
    assert all(captions["prompt"])
    assert {*PLACES, *class_names(shipped / "objects.tsv", "object")} <= set(captions["type"])


# Who is erased, who is kept


def test_groups_are_concepts_suites_and_domain_priors(folder: Path, world: World) -> None:
    """As a configuration names them, read by what reads a configuration's files."""
    people = read_concepts(folder / "people_erase.tsv")
    assert len(people) == 100
    assert {(one.kind, one.anchor, one.synonyms) for one in people} == {("person", "a person", ())}
    objects = read_concepts(folder / "objects_erase.tsv")
    assert len(objects) == 40
    things = {thing.name: thing for thing in world.things}
    assert all((one.kind, one.anchor) == ("object", things[one.name].category) for one in objects)
    assert all(one.synonyms == things[one.name].synonyms for one in objects)
    for name, erased, number in (("people", people, 62), ("objects", objects, 57)):
        kept = str(folder / f"{name}_keep.tsv")
        assert len(class_names(kept, "name")) == number
        assert not set(class_names(kept, "name")) & {one.name for one in erased}
        prior = prior_texts({"file": kept, "column": "name", "templates": ["a photo of {}", "{} smiling"]})
        assert len(prior) == 2 * number
        assert not any(
            one.name in text.split(" smiling")[0].split("photo of ")[-1:] for one in erased for text in prior
        )
        suite = {"table": kept, "column": "name", "prompt": ["a photo of {}", "a portrait of {}"], "seeds": [1, 5]}
        assert len(suite_rows(suite)) == number * 2 * 5
    suite = {"table": str(folder / "people_erase.tsv"), "column": "concept", "prompt": "a photo of {}", "seeds": [1, 2]}
    assert len(suite_rows(suite)) == 200
    assert {one.name for one in people} | set(class_names(folder / "people_keep.tsv", "name")) == {
        person.name for person in world.people
    }


def test_the_first_people_to_erase_are_spread_over_genders_and_tones(folder: Path, world: World) -> None:
    traits = {person.name: (person.gender, person.tone) for person in world.people}
    erased = [traits[one.name] for one in read_concepts(folder / "people_erase.tsv")]
    for n in (5, 6, 10, 50, 100):
        counts = Counter(erased[:n])
        assert len(counts) == min(n, 6)
        assert max(counts.values()) - min(counts[cell] for cell in set(traits.values())) <= 1


def test_people_take_turns_in_their_order() -> None:
    def person(name: str, gender: str) -> Person:
        return Person(name, name, "cook", gender, "dark", "erase")

    people = [person("a", "woman"), person("b", "woman"), person("c", "man"), person("d", "woman"), person("e", "man")]
    assert "".join(one.name for one in spread(people)) == "acbed"
