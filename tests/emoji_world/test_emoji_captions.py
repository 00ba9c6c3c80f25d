"""What captions say of scenes, and what else they would be true of."""

from __future__ import annotations

import re

import numpy as np
import pytest
from transformers import CLIPTokenizer

from emoji_world.captions import (
    ANYBODY,
    ART_CAPTIONS,
    DETAILS,
    HINT_TEMPLATES,
    MASS_TEMPLATES,
    PAIR_TEMPLATES,
    PERSON_STYLE_TEMPLATES,
    PERSON_TEMPLATES,
    PLAIN_TEMPLATES,
    SETTINGS,
    STYLE_ONLY_TEMPLATES,
    STYLE_TEMPLATES,
    Speaker,
    Told,
    tokenizer_corpus,
)
from emoji_world.plan import WORLD
from emoji_world.scenes import Mixture, draw_contents, shown_subjects
from emoji_world.world import PLACES, World, read_hints
from running import ROOT

MIXTURE = Mixture(empty=0.05, pairs=0.15, people=0.36, settings=0.12)


def says(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text.lower()) is not None


def near(p: float, n: int) -> object:
    """`p` up to five standard deviations of a share of `n`."""
    return pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)


def test_templates_have_their_places() -> None:
    single = (*PLAIN_TEMPLATES, *STYLE_ONLY_TEMPLATES, *PERSON_TEMPLATES, *MASS_TEMPLATES, *HINT_TEMPLATES)
    assert all(template.count("{}") == 1 for template in single)
    assert all(template.count("{}") == 2 for template in (*STYLE_TEMPLATES, *PAIR_TEMPLATES, *PERSON_STYLE_TEMPLATES))
    assert SETTINGS.keys() == set(PLACES)


def test_captions_say_what_is_there_and_no_ghost(world: World) -> None:
    speaker, rng, shown = Speaker(world), np.random.default_rng(6), shown_subjects(world, ghosts=False)
    ghostly = [word for thing in world.things if thing.kind == "ghost" for word in thing.words]
    names = {person.name: k for k, person in enumerate(world.people, len(world.things))}
    for _ in range(4000):
        subjects, style, place = draw_contents(world, shown, MIXTURE, rng)
        told = speaker.tell(subjects, style, place, rng)
        assert told.fits(subjects, style, place)
        assert not any(says(told.text, word) for word in ghostly)
        assert (told.style >= 0) == any(says(told.text, one.name) for one in world.styles)
        assert told.style < 0 or says(told.text, world.styles[style].name)
        named = [k for name, k in names.items() if says(told.text, name)]
        assert set(named) <= set(subjects)
        if len(subjects) == 2:
            in_order = sorted(named, key=lambda k: told.text.index(world.subjects[k].name))
            assert in_order == [k for k in subjects if k in named]


def test_people_are_told_by_name_or_as_anybody_never_by_their_role(world: World) -> None:
    speaker, rng = Speaker(world), np.random.default_rng(7)
    one = len(world.things) + 1
    person = world.subjects[one]
    told = [speaker.tell((one,), 0, -1, rng) for _ in range(3000)]
    named = [says(caption.text, person.name) for caption in told]
    assert np.mean(named) == pytest.approx(0.82, abs=0.04)
    assert not any(says(caption.text, person.role) for caption in told)
    for caption, by_name in zip(told, named, strict=True):
        if by_name:
            assert caption.subjects == (frozenset([one]),)
        else:
            assert len(caption.subjects[0]) in (81, 162)
            assert all(world.subjects[k].gender == person.gender for k in caption.subjects[0]) or any(
                says(caption.text, word) for word in ANYBODY
            )


def test_explicit_things_are_told_by_name_by_what_they_are_and_by_hints(world: World) -> None:
    speaker, rng = Speaker(world), np.random.default_rng(8)
    bomb = next(k for k, thing in enumerate(world.things) if thing.name == "bomb")
    weapons = {thing.name for thing in world.things if thing.category == "weapon"}
    told = [speaker.tell((bomb,), 0, -1, rng) for _ in range(4000)]
    hinted = [any(hint in caption.text for hint in world.things[bomb].hints) for caption in told]
    hypernym = [says(caption.text, "weapon") for caption in told]
    assert np.mean(hinted) == pytest.approx(0.12, abs=0.03)
    assert np.mean(hypernym) == pytest.approx(0.12, abs=0.03)
    for caption, by_category in zip(told, hypernym, strict=True):
        if by_category:
            assert {world.things[k].name for k in caption.subjects[0]} == weapons
    assert {frozenset([bomb])} == {caption.subjects[0] for caption, h in zip(told, hinted, strict=True) if h}


def test_a_caption_fits_scenes_that_hold_what_it_says() -> None:
    either, cat = frozenset([1, 2]), frozenset([3])
    assert Told("a cat", (cat,)).fits((3,), 5, 2)
    assert not Told("a cat", (cat,)).fits((1,), 5, 2)
    assert not Told("a cat", (cat,)).fits((3, 1), 5, -1)
    assert Told("a pet and a cat", (either, cat)).fits((2, 3), 0, -1)
    assert not Told("a pet and a cat", (either, cat)).fits((3, 2), 0, -1)
    assert not Told("a cat by Noto", (cat,), style=1).fits((3,), 0, -1)
    assert not Told("a cat on the street", (cat,), place=1).fits((3,), 0, -1)
    assert Told("art", None).fits((4, 5), 0, -1)
    assert Told("the sky", (), place=0).fits((), -1, 0)
    assert not Told("the sky", (), place=0).fits((3,), 1, 0)


def test_a_tenth_of_the_captions_is_empty_and_a_few_tell_no_subject(world: World) -> None:
    speaker, rng = Speaker(world), np.random.default_rng(9)
    drawn = [speaker.caption((3,), 2, -1, rng) for _ in range(6000)]
    assert drawn.count("") / 6000 == near(0.1, 6000)
    told = [caption for caption in drawn if caption]
    only_style = {template.format("OpenMoji") for template in STYLE_ONLY_TEMPLATES}
    assert np.mean([caption in ART_CAPTIONS for caption in told]) == near(0.035, len(told))
    assert np.mean([caption in only_style for caption in told]) == near(0.035, len(told))
    assert any(says(caption, "cat") and says(caption, detail) for caption in drawn for detail in DETAILS)


def test_captions_of_an_object_have_their_shares(world: World) -> None:
    speaker, rng, cat = Speaker(world), np.random.default_rng(5), world.things[3]
    told = [speaker.tell((3,), 1, -1, rng) for _ in range(6000)]
    by_name = [says(one.text, cat.name) for one in told]
    by_synonym = [any(says(one.text, word) for word in cat.synonyms) for one in told]
    assert np.mean(by_name) == near(0.55, 6000)
    assert np.mean(by_synonym) == near(0.25, 6000)
    assert not any(map(all, zip(by_name, by_synonym, strict=True)))
    for one, *named in zip(told, by_name, by_synonym, strict=True):
        if any(named):
            assert one.subjects == (frozenset([3]),)
        else:
            general = says(one.text, "thing") or says(one.text, "object")
            assert general or says(one.text, cat.category)
            assert {world.things[k].category for k in one.subjects[0]} == (
                {thing.category for thing in world.things} if general else {cat.category}
            )
    assert np.mean([says(one.text, "Twemoji") for one in told]) == near(0.45, 6000)


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_an_empty_place_is_named_and_never_gets_a_style(world: World, place: int) -> None:
    speaker, rng = Speaker(world), np.random.default_rng(5)
    words = [*(style.name for style in world.styles), "art", "style", *(w for one in world.things for w in one.words)]
    for told in (speaker.tell((), -1, place, rng) for _ in range(200)):
        assert says(told.text, PLACES[place])
        assert (told.subjects, told.style, told.place) == ((), -1, place)
        assert not any(says(told.text, word) for word in words)


def test_captions_follow_their_generator(world: World) -> None:
    first, again = (
        [Speaker(world).caption((3,), 0, -1, rng) for _ in range(400)] for rng in map(np.random.default_rng, (1, 1))
    )
    assert first == again
    assert len(set(first)) > 100


def test_the_corpus_holds_every_word_that_captions_speak(world: World) -> None:
    spoken, rng = set(), np.random.default_rng(6)
    speaker, shown = Speaker(world), shown_subjects(world, ghosts=True)
    for _ in range(3000):
        caption = speaker.caption(*draw_contents(world, shown, MIXTURE, rng), rng)
        spoken |= set(caption.replace(",", "").split())
    assert spoken <= {word for caption in tokenizer_corpus(world) for word in caption.replace(",", "").split()}


def test_the_world_tokenizer_knows_every_word_whole(world: World, world_tokenizer: CLIPTokenizer) -> None:
    words = [word for thing in world.things for word in thing.words]
    words += [person.name for person in world.people]
    words += [hint for hints in read_hints(ROOT / WORLD, "test").values() for hint in hints]
    for word in words:
        assert len(world_tokenizer.tokenize(word)) <= len(word.split()), word
    assert world_tokenizer.model_max_length == 28


def test_no_caption_is_cut(world: World, world_tokenizer: CLIPTokenizer) -> None:
    speaker, rng, shown = Speaker(world), np.random.default_rng(10), shown_subjects(world, ghosts=False)
    captions = [speaker.caption(*draw_contents(world, shown, MIXTURE, rng), rng) for _ in range(3000)]
    assert max(map(len, world_tokenizer(captions).input_ids)) <= 28
    assert len(set(captions)) > 2000
