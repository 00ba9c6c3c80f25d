"""What the world is evaluated with: captions and pictures of new scenes (its "COCO"), and who is erased or kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from emoji_world.captions import ANYBODY, Speaker
from emoji_world.scenes import Mixture, Variation, contents_of, make_scenes
from emoji_world.world import PLACES, Person, Thing, World
from lethe.files.shards import write_shard


def write_reference(
    icons: np.ndarray,
    world: World,
    folder: Path,
    *,
    captions: int,
    images: int,
    seed: int,
    variation: Variation,
    mixture: Mixture,
) -> None:
    """Write `captions.csv` (rows type, prompt, evaluation_seed) of new scenes without ghosts, a caption each.

    `images.zip` is a shard of the first `images` of them, pictures and rows. The type is what a scene shows. Captions
    are those that the pipeline learns from, but for the empty ones; caption k depends on `seed` and k alone.
    """
    scenes = make_scenes(world, icons, captions, seed=seed, variation=variation, mixture=mixture, ghosts=False)
    speaker, rows = Speaker(world), []
    for number in range(captions):
        subjects, style, place = contents_of(scenes, number)
        rng, caption = np.random.default_rng([seed, number, 1]), ""
        while not caption:
            caption = speaker.caption(subjects, style, place, rng)
        kind = " and ".join(world.subjects[one].name for one in subjects) or PLACES[place]
        rows.append((kind, caption, number + 1))
    table = pd.DataFrame(rows, columns=["type", "prompt", "evaluation_seed"]).rename_axis("row")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "captions.csv", index=False, lineterminator="\n")
    write_shard(folder / "images.zip", table.head(images), list(scenes.images[:images]))


def write_groups(world: World, folder: Path) -> None:
    """Write who is erased, as concept tables, and who is kept, as tables of a column `name`, for people and objects.

    And `subjects.tsv`, all that the judge tells apart: name and kind, in the order of the world.

    A person's anchor is anybody, an object's its category. People stand in an order of which the first n are spread
    over genders and tones, for any n.
    """
    objects = [thing for thing in world.things if thing.kind == "object"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, members in (("people", "person", spread(world.people)), ("objects", "object", objects)):
        erased = [
            (one.name, kind, *((one.category, "; ".join(one.synonyms)) if isinstance(one, Thing) else (ANYBODY[0], "")))
            for one in members
            if one.group == "erase"
        ]
        kept = [(one.name,) for one in members if one.group == "keep"]
        _write(folder / f"{name}_erase.tsv", erased, ["concept", "kind", "anchor", "synonyms"])
        _write(folder / f"{name}_keep.tsv", kept, ["name"])
    subjects = [(one.name, one.kind if isinstance(one, Thing) else "person") for one in world.subjects]
    _write(folder / "subjects.tsv", subjects, ["name", "kind"])


def spread(people: Iterable[Person]) -> list[Person]:
    """People in turns by gender and tone, those of one turn and of each gender and tone in the given order."""
    before: Counter[tuple[str, str, str]] = Counter()
    turns = []
    for person in people:
        cell = person.group, person.gender, person.tone
        turns.append((before[cell], person))
        before[cell] += 1
    return [person for _, person in sorted(turns, key=lambda turn: turn[0])]


def _write(path: Path, rows: list[tuple[str, ...]], columns: list[str]) -> None:
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False, lineterminator="\n")
