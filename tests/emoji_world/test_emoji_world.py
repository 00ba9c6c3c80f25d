"""The emoji world's tables: what ships, that every word names one thing, and who is erased or kept."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from emoji_world.captions import ANYBODY, GENDERS, GENERIC
from emoji_world.plan import WORLD
from emoji_world.world import PLACES, Person, Style, Thing, World, kinds_of, read_hints, read_world
from running import ROOT

TABLES = ROOT / WORLD

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


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def says(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase.lower())}\b", text.lower()) is not None


def test_the_world_is_as_rich_as_its_tasks_need(world: World) -> None:
    kinds = Counter(thing.kind for thing in world.things)
    assert kinds == {"object": 97, "explicit": 10, "ghost": 12}
    assert len(world.people) == 162
    assert [thing.name for thing in world.things[:10]] == list(SYNONYMS)
    for thing in world.things[:10]:
        assert thing.synonyms == tuple(word.replace("_", " ") for word in SYNONYMS[thing.name].split())
    assert {"bomb", "dagger", "cigarette", "syringe", "skull"} <= {t.name for t in world.things if t.kind == "explicit"}
    hypernyms = {thing.category for thing in world.things if thing.kind == "explicit"}
    assert {"weapon", "smoking", "drugs"} <= hypernyms
    assert not hypernyms & {thing.category for thing in world.things if thing.kind != "explicit"}


def test_every_word_of_the_world_names_one_thing(world: World) -> None:
    words = [word for thing in world.things for word in thing.words] + [person.name for person in world.people]
    assert all(word == word.strip() != "" for word in words)
    generic = {*PLACES, *GENERIC, *ANYBODY, *GENDERS, "art", *(thing.category for thing in world.things)}
    assert [word for word, n in Counter(map(str.lower, [*words, *generic])).items() if n > 1] == []
    icons = [subject.icon for subject in world.subjects]
    assert len(set(icons)) == len(icons)
    assert all(thing.synonyms for thing in world.things)


def test_people_are_each_one_character_with_an_invented_full_name(world: World) -> None:
    characters = [(person.role, person.gender, person.tone) for person in world.people]
    assert len(set(characters)) == len(characters) == 27 * 2 * 3
    assert {tone for _, _, tone in characters} == {"light", "medium", "dark"}
    for person in world.people:
        assert len(person.name.split()) in (2, 3)
        assert person.icon.endswith(f"-{person.tone}-skin-tone")
        assert person.gender in GENDERS
        assert not any(says(other.name, person.name) for other in world.people if other is not person)
    names = [word for person in world.people for word in person.name.split()]
    shared = [name for name, n in Counter(names).items() if n > 1]
    assert len(shared) > 40  # namesakes and relatives, as among the celebrities of the paper


def test_styles_are_fetched_and_licensed(world: World, recipe: dict) -> None:
    assert len(world.styles) >= 5
    assert len({style.name for style in world.styles}) == len(world.styles)
    for style in world.styles:
        assert style.drawing in ("colour", "lines", "sepia", "cyanotype")
        assert style.collection in recipe["collections"]
        assert style.licence
        assert style.attribution


def test_hints_lead_to_explicit_things_without_naming_them(world: World) -> None:
    train, held_out = read_hints(TABLES, "train"), read_hints(TABLES, "test")
    explicit = {thing.name: thing for thing in world.things if thing.kind == "explicit"}
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


def test_tables_are_read_as_they_are(tmp_path: Path) -> None:
    """A cell that looks like a missing value is a word; an empty list of synonyms holds none."""
    things = "object\ticon\tcategory\tsynonyms"
    for name, text in {
        "objects": f"{things}\tgroup\nNA\tnull\tn/a\tnone; NaN ;x\terase\n",
        "explicit": f"{things}\nbomb\tb\tweapon\tgrenade\n",
        "ghosts": f"{things}\nyeti\ty\tanimal\t\n",
        "people": "name\ticon\trole\tgender\ttone\tgroup\nNan None\tn\tcook\tman\tdark\tkeep\n",
        "hints": "object\tuse\tprompt\nbomb\ttrain\ttick\nbomb\ttest\ttock\n",
        "styles": "style\tcollection\tdrawing\tlicence\tattribution\nNA\tc\tlines\tMIT\tNone\n",
    }.items():
        (tmp_path / f"{name}.tsv").write_text(text)
    found = read_world(tmp_path)
    assert found.things == (
        Thing("NA", "null", "n/a", ("none", "NaN", "x"), "object", (), "erase"),
        Thing("bomb", "b", "weapon", ("grenade",), "explicit", ("tick",)),
        Thing("yeti", "y", "animal", (), "ghost"),
    )
    assert found.people == (Person("Nan None", "n", "cook", "man", "dark", "keep"),)
    assert found.styles == (Style("NA", "c", "lines", "MIT", "None"),)
    assert found.things[0].words == ("NA", "none", "NaN", "x")
    assert read_hints(tmp_path, "test") == {"bomb": ("tock",)}


def test_kinds_hold_every_subject_once(world: World) -> None:
    kinds = kinds_of(world)
    assert {name: len(members) for name, members in kinds.items()} == dict(
        objects=97, explicit=10, ghosts=12, people=162
    )
    assert sorted(np.concatenate(list(kinds.values()))) == list(range(len(world.subjects)))
    assert {world.subjects[k].kind for k in kinds["ghosts"]} == {"ghost"}


def test_a_hundred_people_are_erased_and_the_others_kept_even_over_who_they_are(world: World) -> None:
    groups = Counter(person.group for person in world.people)
    assert groups == {"erase": 100, "keep": 62}
    kept = [person for person in world.people if person.group == "keep"]
    for trait, low, high in (("gender", 31, 31), ("tone", 20, 21), ("role", 2, 3)):
        counts = Counter(getattr(person, trait) for person in kept)
        assert len(counts) == len({getattr(person, trait) for person in world.people})
        assert low <= min(counts.values()) <= max(counts.values()) <= high
    cells = Counter((person.gender, person.tone) for person in kept)
    assert set(cells.values()) == {10, 11}
    for role in {person.role for person in kept}:  # no role is kept in one gender alone
        assert {person.gender for person in kept if person.role == role} == {"woman", "man"}


def test_forty_objects_are_erased_cifars_ten_among_them_and_some_of_each_category_kept(world: World) -> None:
    objects = [thing for thing in world.things if thing.kind == "object"]
    assert Counter(thing.group for thing in objects) == {"erase": 40, "keep": 57}
    assert {thing.group for thing in objects[:10]} == {"erase"}
    assert {thing.category for thing in objects if thing.group == "keep"} == {thing.category for thing in objects}


def test_subjects_are_the_things_then_the_people(world: World) -> None:
    assert all(isinstance(one, Thing) for one in world.subjects[: len(world.things)])
    assert all(isinstance(one, Person) for one in world.subjects[len(world.things) :])
