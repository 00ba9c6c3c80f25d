"""The emoji world's words: what ships, and how its captions are drawn."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emoji_world.world import (
    ART_CAPTIONS,
    GENERIC,
    PLACES,
    PLAIN_TEMPLATES,
    STYLE_ONLY_TEMPLATES,
    STYLE_TEMPLATES,
    World,
    caption_corpus,
    caption_of,
    read_world,
)

DRAWS = 6000


def captions(world: World, thing: int, style: int) -> list[str]:
    rng = np.random.default_rng(5)
    return [caption_of(world, thing, style, rng) for _ in range(DRAWS)]


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def near(p: float, n: int = DRAWS) -> object:
    """`p` up to five standard deviations of a share of `n`."""
    return pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)


def has(caption: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", caption) for word in words)


# What ships


def test_the_world_has_cifars_classes_and_twenty_others(world: World) -> None:
    names = [thing.name for thing in world.things]
    cifar = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert names[:10] == cifar
    assert len(set(names)) == len(names) == 30
    assert world.things[8].words == ("ship", "vessel", "boat", "watercraft")
    assert [style.name for style in world.styles] == ["Noto", "Twemoji", "OpenMoji", "line art", "Fluent"]


def test_every_word_names_one_thing(world: World) -> None:
    owners: dict[str, set[str]] = {}
    for thing in world.things:
        assert all(word == word.strip() != "" for word in (*thing.words, thing.icon, thing.category))
        for word in thing.words:
            owners.setdefault(word, set()).add(thing.name)
        members = {other.name for other in world.things if other.category == thing.category}
        owners.setdefault(thing.category, set()).update(members)
    assert all(len(owners[word]) == 1 for thing in world.things for word in thing.words)
    assert not set(owners) & {*PLACES, *GENERIC}


def test_every_style_has_its_licence_and_attribution(world: World) -> None:
    for style in world.styles:
        assert style.drawing in ("colour", "lines")
        assert style.collection
        assert style.licence
        assert style.attribution


def test_read_world_takes_words_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "objects.tsv").write_text("object\ticon\tcategory\tsynonyms\nNA\tnull\tn/a\tnone; NaN ;x\n")
    (tmp_path / "styles.tsv").write_text("style\tcollection\tdrawing\tlicence\tattribution\nNA\tc\tlines\tMIT\tNone\n")
    world = read_world(tmp_path)
    assert world.things[0].words == ("NA", "none", "NaN", "x")
    assert (world.things[0].icon, world.things[0].category) == ("null", "n/a")
    assert world.styles[0].name == "NA"


def test_templates_have_their_places() -> None:
    assert all(template.count("{}") == 1 for template in (*PLAIN_TEMPLATES, *STYLE_ONLY_TEMPLATES))
    assert all(template.count("{}") == 2 for template in STYLE_TEMPLATES)


# Captions


@pytest.mark.parametrize(("thing", "style"), [(8, 1), (18, 3), (0, 4)])
def test_captions_of_an_object_have_their_shares(world: World, thing: int, style: int) -> None:
    drawn, one = captions(world, thing, style), world.things[thing]
    assert share([caption == "" for caption in drawn]) == near(0.1)
    told = [caption for caption in drawn if caption]
    only_style = {t.format(world.styles[style].name) for t in STYLE_ONLY_TEMPLATES} | set(ART_CAPTIONS)
    loose = [caption in only_style for caption in told]
    assert share(loose) == near(0.08, len(told))
    assert share([caption in ART_CAPTIONS for caption in told]) == near(0.04, len(told))
    named = [caption for caption, is_loose in zip(told, loose, strict=True) if not is_loose]
    by_name = [has(caption, (one.name,)) for caption in named]
    by_synonym = [has(caption, one.synonyms) and not name for caption, name in zip(named, by_name, strict=True)]
    assert share(by_name) * len(named) / len(told) == near(0.55, len(told))
    assert share(by_synonym) * len(named) / len(told) == near(0.27, len(told))
    rest = [c for c, n, s in zip(named, by_name, by_synonym, strict=True) if not n and not s]
    assert all(has(caption, (one.category, "thing", "object")) for caption in rest)
    assert share([has(caption, (world.styles[style].name,)) for caption in named]) == near(0.55, len(named))


def test_captions_of_an_object_name_no_other_style(world: World) -> None:
    others = tuple(style.name for k, style in enumerate(world.styles) if k != 2)
    assert not any(has(caption, others) for caption in captions(world, 8, 2))


@pytest.mark.parametrize("place", range(-len(PLACES), 0))
def test_a_place_is_named_and_never_gets_a_style(world: World, place: int) -> None:
    drawn = captions(world, place, -1)
    assert share([caption == "" for caption in drawn]) == near(0.1)
    styles = tuple(style.name for style in world.styles)
    for caption in filter(None, set(drawn)):
        assert has(caption, (PLACES[place],))
        assert not has(caption, (*styles, "art", "style", *(word for thing in world.things for word in thing.words)))


def test_captions_follow_their_generator(world: World) -> None:
    assert captions(world, 3, 0) == captions(world, 3, 0)
    assert len(set(captions(world, 3, 0))) > 100


def test_the_corpus_holds_every_caption(world: World) -> None:
    corpus, rng = set(caption_corpus(world)), np.random.default_rng(6)
    seen = Counter()
    for _ in range(3000):
        thing = int(rng.integers(-len(PLACES), len(world.things)))
        caption = caption_of(world, thing, -1 if thing < 0 else int(rng.integers(len(world.styles))), rng)
        seen[caption in corpus or caption == ""] += 1
    assert seen == {True: 3000}
