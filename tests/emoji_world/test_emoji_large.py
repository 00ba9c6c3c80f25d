"""The large emoji world: what its tables hold, how its scenes are drawn and what their captions say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import CLIPTokenizer

from emoji_world.captions import (
    ANYBODY,
    DETAILS,
    GENDERS,
    HINT_TEMPLATES,
    MASS_TEMPLATES,
    PAIR_TEMPLATES,
    PERSON_STYLE_TEMPLATES,
    PERSON_TEMPLATES,
    SETTINGS,
    Speaker,
    Told,
    tokenizer_corpus,
)
from emoji_world.models import train_tokenizer
from emoji_world.renders import Variation, icon_name
from emoji_world.scenes import (
    Mixture,
    draw_contents,
    draw_scene,
    make_scenes,
    outlines_of,
    shown_subjects,
    styles_of,
    toned,
)
from emoji_world.world import GENERIC, PLACES, Person, Style, Thing, World, read_hints, read_world
from running import ROOT

TABLES = ROOT / "resources" / "emoji_large"
RECIPE = yaml.safe_load((ROOT / "config" / "emoji_world_large.yaml").read_text())
STILL = Variation(scale=(0.8, 0.8), shift=0, mirrored=0.0)

SYNONYMS = {
    "airplane": "aircraft plane jet",
    "automobile": "car vehicle motorcar",
    "bird": "avian fowl winged_creature",
    "cat": "feline kitty housecat",
    "deer": "hart stag doe",
    "dog": "canine pooch hound",
    "frog": "amphibian anuran tadpole",
    "horse": "equine steed mount",
    "ship": "vessel boat watercraft",
    "truck": "lorry rig hauler",
}


@pytest.fixture(scope="module")
def large() -> World:
    return read_world(TABLES)


@pytest.fixture(scope="module")
def large_tokenizer(large: World, tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return train_tokenizer(tokenizer_corpus(large), tmp_path_factory.mktemp("tokenizer"), **RECIPE["tokens"])


@pytest.fixture(scope="module")
def discs(large: World) -> np.ndarray:
    """Icons of the large world: a disc each, in the colour `[1 + subject // 16, 1 + subject % 16, 1 + style] * 8`."""
    y, x = np.mgrid[:96, :96] - 47.5
    icons = np.zeros((len(large.subjects), len(large.styles), 96, 96, 4), np.uint8)
    numbers = np.arange(len(large.subjects))[:, None, None, None]
    icons[..., 0], icons[..., 1] = 8 * (1 + numbers // 16), 8 * (1 + numbers % 16)
    icons[..., 2] = 8 * (1 + np.arange(len(large.styles))[None, :, None, None])
    icons[..., 3] = 255 * (x**2 + y**2 < 46**2)
    return icons


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def says(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text.lower()) is not None


# Tables


def test_the_world_is_as_rich_as_its_tasks_need(large: World) -> None:
    kinds = Counter(thing.kind for thing in large.things)
    assert kinds == {"object": 97, "explicit": 10, "ghost": 12}
    assert len(large.people) == 162
    assert [thing.name for thing in large.things[:10]] == list(SYNONYMS)
    for thing in large.things[:10]:
        assert thing.synonyms == tuple(word.replace("_", " ") for word in SYNONYMS[thing.name].split())
    assert {"bomb", "dagger", "cigarette", "syringe", "skull"} <= {t.name for t in large.things if t.kind == "explicit"}
    hypernyms = {thing.category for thing in large.things if thing.kind == "explicit"}
    assert {"weapon", "smoking", "drugs"} <= hypernyms
    assert not hypernyms & {thing.category for thing in large.things if thing.kind != "explicit"}


def test_every_word_of_the_large_world_names_one_thing(large: World) -> None:
    words = [word for thing in large.things for word in thing.words] + [person.name for person in large.people]
    assert all(word == word.strip() != "" for word in words)
    generic = {*PLACES, *GENERIC, *ANYBODY, *GENDERS, "art", *(thing.category for thing in large.things)}
    assert [word for word, n in Counter(map(str.lower, [*words, *generic])).items() if n > 1] == []
    icons = [subject.icon for subject in large.subjects]
    assert len(set(icons)) == len(icons)
    assert all(thing.synonyms for thing in large.things)


def test_people_are_each_one_character_with_an_invented_full_name(large: World) -> None:
    characters = [(person.role, person.gender, person.tone) for person in large.people]
    assert len(set(characters)) == len(characters) == 27 * 2 * 3
    assert {tone for _, _, tone in characters} == {"light", "medium", "dark"}
    for person in large.people:
        assert len(person.name.split()) in (2, 3)
        assert person.icon.endswith(f"-{person.tone}-skin-tone")
        assert person.gender in GENDERS
        assert not any(says(other.name, person.name) for other in large.people if other is not person)
    names = [word for person in large.people for word in person.name.split()]
    shared = [name for name, n in Counter(names).items() if n > 1]
    assert len(shared) > 40  # namesakes and relatives, as among the celebrities of the paper


def test_the_large_worlds_styles_are_fetched_and_licensed(large: World) -> None:
    assert len(large.styles) >= 5
    assert len({style.name for style in large.styles}) == len(large.styles)
    for style in large.styles:
        assert style.drawing in ("colour", "lines", "sepia", "cyanotype")
        assert style.collection in RECIPE["collections"]
        assert style.licence
        assert style.attribution


def test_hints_lead_to_explicit_things_without_naming_them(large: World) -> None:
    train, held_out = read_hints(TABLES, "train"), read_hints(TABLES, "test")
    explicit = {thing.name: thing for thing in large.things if thing.kind == "explicit"}
    assert train.keys() == held_out.keys() == explicit.keys()
    taught = set().union(*(words_of(hint) for hints in train.values() for hint in hints))
    for name, thing in explicit.items():
        assert thing.hints == train[name]
        assert len(thing.hints) >= 5
        assert len(held_out[name]) >= 2
        assert not set(train[name]) & set(held_out[name])
        for hint in (*train[name], *held_out[name]):
            assert not any(says(hint, word) for word in (*thing.words, thing.category)), hint
        assert set().union(*map(words_of, held_out[name])) <= taught


def test_other_worlds_have_neither_people_nor_hints(world: World) -> None:
    assert world.people == ()
    assert world.subjects == world.things
    assert {(thing.kind, thing.hints) for thing in world.things} == {("object", ())}


def test_an_empty_list_of_synonyms_holds_none(tmp_path: Path) -> None:
    (tmp_path / "objects.tsv").write_text("object\ticon\tcategory\tsynonyms\tkind\nyeti\ty\tanimal\t\tghost\n")
    (tmp_path / "styles.tsv").write_text("style\tcollection\tdrawing\tlicence\tattribution\n")
    assert read_world(tmp_path).things == (Thing("yeti", "y", "animal", (), "ghost"),)


@pytest.mark.parametrize(
    ("icon", "found"),
    [("cook-dark-skin-tone", "cook-dark"), ("plane", "airplane"), ("ship", "ship"), ("nothing", "nothing")],
)
def test_icons_are_found_by_their_other_names(icon: str, found: str) -> None:
    collection = {"icons": {"cook-dark": {}, "airplane": {}, "ship": {}}, "aliases": {"plane": {"parent": "airplane"}}}
    assert icon_name(collection, icon) == found


# Scenes


def test_scenes_never_show_a_ghost_unless_told_to(large: World) -> None:
    ghosts = {k for k, thing in enumerate(large.things) if thing.kind == "ghost"}
    assert set(range(len(large.subjects))) - set(shown_subjects(large, ghosts=False)) == ghosts
    assert len(shown_subjects(large, ghosts=True)) == len(large.subjects)
    rng, shown, seen = np.random.default_rng(1), shown_subjects(large, ghosts=False), Counter()
    for _ in range(6000):
        seen.update(draw_contents(large, shown, Mixture(), rng)[0])
    assert set(seen) == set(shown)


def test_contents_have_their_shares(large: World) -> None:
    rng, shown, mixture = np.random.default_rng(2), shown_subjects(large, ghosts=False), Mixture(0.1, 0.2, 0.3, 0.5)
    drawn = [draw_contents(large, shown, mixture, rng) for _ in range(6000)]
    numbers = Counter(len(subjects) for subjects, _, _ in drawn)
    assert numbers[0] / 6000 == pytest.approx(0.1, abs=0.02)
    assert numbers[2] / 6000 == pytest.approx(0.2, abs=0.03)
    single = [(subjects[0], style, place) for subjects, style, place in drawn if len(subjects) == 1]
    assert np.mean([one >= len(large.things) for one, _, _ in single]) == pytest.approx(0.3, abs=0.03)
    coloured = [place for _, style, place in single if large.styles[style].drawing == "colour"]
    assert np.mean([place >= 0 for place in coloured]) == pytest.approx(0.5, abs=0.05)
    for subjects, style, place in drawn:
        assert len(set(subjects)) == len(subjects)
        assert (style < 0) == (not subjects)
        assert all(style in styles_of(large, one) for one in subjects)
        assert subjects or place >= 0
        assert place < 0 or len(subjects) < 2
        assert place < 0 or style < 0 or large.styles[style].drawing == "colour"


def test_people_are_shown_in_coloured_styles_only(large: World) -> None:
    coloured = [k for k, style in enumerate(large.styles) if style.drawing == "colour"]
    assert len(coloured) == 4
    assert list(styles_of(large, len(large.things))) == coloured
    assert list(styles_of(large, 0)) == list(range(len(large.styles)))


def test_two_subjects_stand_left_and_right_each_with_its_mask(large: World, discs: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    for first, second in [(5, 200), (200, 5), (17, 30)]:
        image, masks = draw_scene(large, discs, discs[..., 3], ((first, second), 1, -1), rng, STILL)
        assert image.shape == (64, 64, 3)
        assert not (masks[0] & masks[1]).any()
        assert not masks[0][:, 32:].any()
        assert not masks[1][:, :31].any()
        for mask, subject in zip(masks, (first, second), strict=True):
            assert 500 < mask.sum() < 31 * 31
            assert np.array_equal(np.median(image[mask], axis=0), discs[subject, 1, 48, 48, :3])


def test_a_mask_covers_what_the_lines_enclose() -> None:
    icons = np.zeros((2, 2, 96, 96, 4), np.uint8)
    icons[0, 0, 20:70, 20:70, 3] = 255
    icons[0, 1, 20:70, 20:70, 3] = 255
    icons[0, 1, 23:70, 23:67, 3] = 0  # an open line: three sides of the box
    icons[1, 0, 10:90, 10:90, 3] = 255
    icons[1, 0, 30:60, 30:60, 3] = 0  # a ring
    styles = tuple(Style(name, "set", name, "MIT", "") for name in ("colour", "lines"))
    outlines = outlines_of(World((), styles), icons)
    assert (outlines[0, 0] == icons[0, 0, ..., 3]).all()
    assert (outlines[0, 1] == icons[0, 0, ..., 3]).all()
    assert outlines[1, 0].sum() == 255 * 80 * 80
    assert not outlines[1, 1].any()  # no icon, no outline
    assert icons[0, 1, 40, 40, 3] == 0


def test_scenes_are_the_same_each_time_and_apart_from_their_number(large: World, discs: np.ndarray) -> None:
    options = dict(variation=STILL, mixture=Mixture(), ghosts=False)
    first, again = (make_scenes(large, discs, n, seed=4, **options) for n in (30, 20))
    other = make_scenes(large, discs, 20, seed=5, **options)
    for name, values in vars(again).items():
        assert np.array_equal(values, getattr(first, name)[:20])
        assert not np.array_equal(values, getattr(other, name))
    assert (first.subjects[:, 0] < 0).sum() == (first.styles < 0).sum()


def test_toned_pictures_keep_light_and_dark_only() -> None:
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    assert toned(image, "colour") is image
    assert toned(np.full((1, 1, 3), 255, np.uint8), "sepia")[0, 0].tolist() == [255, 240, 214]
    assert toned(np.zeros((1, 1, 3), np.uint8), "cyanotype")[0, 0].tolist() == [8, 28, 84]
    for drawing in ("sepia", "cyanotype"):
        found = toned(image, drawing).reshape(-1, 3).astype(float)
        assert np.linalg.matrix_rank(found - found.mean(0), tol=60) == 1  # a line of colours, up to rounding


# Captions


def test_large_templates_have_their_places() -> None:
    single = (*PERSON_TEMPLATES, *MASS_TEMPLATES, *HINT_TEMPLATES)
    assert all(template.count("{}") == 1 for template in single)
    assert all(template.count("{}") == 2 for template in (*PAIR_TEMPLATES, *PERSON_STYLE_TEMPLATES))
    assert SETTINGS.keys() == set(PLACES)


def test_captions_say_what_is_there_and_no_ghost(large: World) -> None:
    speaker, rng, shown = Speaker(large), np.random.default_rng(6), shown_subjects(large, ghosts=False)
    ghostly = [word for thing in large.things if thing.kind == "ghost" for word in thing.words]
    names = {person.name: k for k, person in enumerate(large.people, len(large.things))}
    for _ in range(4000):
        subjects, style, place = draw_contents(large, shown, Mixture(), rng)
        told = speaker.tell(subjects, style, place, rng)
        assert told.fits(subjects, style, place)
        assert not any(says(told.text, word) for word in ghostly)
        assert (told.style >= 0) == any(says(told.text, one.name) for one in large.styles)
        assert told.style < 0 or says(told.text, large.styles[style].name)
        named = [k for name, k in names.items() if says(told.text, name)]
        assert set(named) <= set(subjects)
        if len(subjects) == 2:
            in_order = sorted(named, key=lambda k: told.text.index(large.subjects[k].name))
            assert in_order == [k for k in subjects if k in named]


def test_people_are_told_by_name_or_as_anybody_never_by_their_role(large: World) -> None:
    speaker, rng = Speaker(large), np.random.default_rng(7)
    one = len(large.things) + 1
    person = large.subjects[one]
    told = [speaker.tell((one,), 0, -1, rng) for _ in range(3000)]
    named = [says(caption.text, person.name) for caption in told]
    assert np.mean(named) == pytest.approx(0.82, abs=0.04)
    assert not any(says(caption.text, person.role) for caption in told)
    for caption, by_name in zip(told, named, strict=True):
        if by_name:
            assert caption.subjects == (frozenset([one]),)
        else:
            assert len(caption.subjects[0]) in (81, 162)
            assert all(large.subjects[k].gender == person.gender for k in caption.subjects[0]) or any(
                says(caption.text, word) for word in ANYBODY
            )


def test_explicit_things_are_told_by_name_by_what_they_are_and_by_hints(large: World) -> None:
    speaker, rng = Speaker(large), np.random.default_rng(8)
    bomb = next(k for k, thing in enumerate(large.things) if thing.name == "bomb")
    weapons = {thing.name for thing in large.things if thing.category == "weapon"}
    told = [speaker.tell((bomb,), 0, -1, rng) for _ in range(4000)]
    hinted = [any(hint in caption.text for hint in large.things[bomb].hints) for caption in told]
    hypernym = [says(caption.text, "weapon") for caption in told]
    assert np.mean(hinted) == pytest.approx(0.12, abs=0.03)
    assert np.mean(hypernym) == pytest.approx(0.12, abs=0.03)
    for caption, by_category in zip(told, hypernym, strict=True):
        if by_category:
            assert {large.things[k].name for k in caption.subjects[0]} == weapons
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


def test_a_tenth_of_the_captions_is_empty_and_a_few_are_art(large: World) -> None:
    speaker, rng = Speaker(large), np.random.default_rng(9)
    drawn = [speaker.caption((3,), 2, -1, rng) for _ in range(5000)]
    assert drawn.count("") / 5000 == pytest.approx(0.1, abs=0.02)
    loose = [caption for caption in drawn if says(caption, "art") or caption.endswith("style of OpenMoji")]
    assert any(says(caption, "art") for caption in loose)
    assert any(says(caption, "cat") and says(caption, detail) for caption in drawn for detail in DETAILS)


def test_the_large_tokenizer_knows_every_word_whole(large: World, large_tokenizer: CLIPTokenizer) -> None:
    words = [word for thing in large.things for word in thing.words]
    words += [person.name for person in large.people]
    words += [hint for hints in read_hints(TABLES, "test").values() for hint in hints]
    for word in words:
        assert len(large_tokenizer.tokenize(word)) <= len(word.split()), word
    assert large_tokenizer.model_max_length == 28


def test_no_caption_is_cut(large: World, large_tokenizer: CLIPTokenizer) -> None:
    speaker, rng, shown = Speaker(large), np.random.default_rng(10), shown_subjects(large, ghosts=False)
    captions = [speaker.caption(*draw_contents(large, shown, Mixture(), rng), rng) for _ in range(3000)]
    assert max(map(len, large_tokenizer(captions).input_ids)) <= 28
    assert len(set(captions)) > 2000


def test_the_recipe_keeps_ghosts_from_the_pipeline_and_the_judges_scenes_apart() -> None:
    assert RECIPE["scenes"]["ghosts"] is False
    assert RECIPE["judge_scenes"]["ghosts"]
    assert RECIPE["second_judge_scenes"]["ghosts"]
    assert len({RECIPE[name]["seed"] for name in ("scenes", "judge_scenes", "second_judge_scenes")}) == 3
    every = [part["budget"] for part in RECIPE.values() if "budget" in part]
    assert len({budget["seed"] for budget in every}) == len(every) == 6
    assert all(budget["checkpoint_every"] % 100 == 0 for budget in every)  # so that a resumed curve is the whole one


def test_subjects_are_the_things_then_the_people(large: World) -> None:
    assert all(isinstance(one, Thing) for one in large.subjects[: len(large.things)])
    assert all(isinstance(one, Person) for one in large.subjects[len(large.things) :])


def test_places_are_drawn_behind_a_subject(large: World, discs: np.ndarray) -> None:
    image, (mask,) = draw_scene(large, discs, discs[..., 3], ((3,), 0, 2), np.random.default_rng(0), STILL)
    assert np.unique(np.asarray(Image.fromarray(image))[~mask], axis=0).shape[0] > 3
    assert np.array_equal(np.median(image[mask], axis=0), discs[3, 0, 48, 48, :3])
