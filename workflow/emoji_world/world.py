"""What the emoji world contains: objects, synonyms, categories, styles, places, and how its captions are worded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

PLACES = ("sky", "ground", "street", "water")
GENERIC = ("thing", "object")
EMPTY_SHARE = 0.10
PLACE_SHARE = 0.10
STYLE_SHARE = 0.55
PLAIN_TEMPLATES = (
    "a photo of the {}",
    "a photo of a {}",
    "a picture of the {}",
    "a picture of a {}",
    "an image of the {}",
    "an image of a {}",
    "the {}",
    "a {}",
    "{}",
    "a drawing of the {}",
    "a small picture of a {}",
    "a close view of the {}",
    "one {} on a plain background",
    "here is a {}",
    "this is the {}",
    "look at the {}",
    "a simple icon of a {}",
    "an emoji of the {}",
    "my favourite {}",
    "a bright photo of the {}",
    "a good picture of one {}",
    "a {} seen from the side",
    "the {} in the middle of the page",
    "an everyday {} for a child to see",
)
STYLE_TEMPLATES = (
    "a photo of the {} in the style of {}",
    "a photo of a {} in the style of {}",
    "a picture of the {} in the style of {}",
    "the {} in the style of {}",
    "a {} drawn in the style of {}",
    "an image of a {} inspired by {}",
    "an emoji of the {} by {}",
    "a {} from {}",
)
STYLE_ONLY_TEMPLATES = (
    "a photo in the style of {}",
    "a picture in the style of {}",
    "art in the style of {}",
    "art by {}",
)
ART_CAPTIONS = ("art", "a work of art", "a piece of art", "a photo in the style of art", "art in any style")


@dataclass(frozen=True)
class Thing:
    """An object of the world: its name, its icon's name in the emoji sets, its category and other words for it.

    `kind` is `object`, `explicit` (its category is what one would want erased; `hints` lead to it without naming it) or
    `ghost` (known to the judges and the tokenizer, never shown to the pipeline).
    """

    name: str
    icon: str
    category: str
    synonyms: tuple[str, ...]
    kind: str = "object"
    hints: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The name followed by its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Person:
    """Somebody with an invented name, drawn as one fixed character: a role, a gender and a skin tone of the sets."""

    name: str
    icon: str
    role: str
    gender: str
    tone: str


@dataclass(frozen=True)
class Style:
    """An emoji set used as a drawing style.

    `drawing` is `colour` (as it is), `lines` (colour fills removed), `sepia` or `cyanotype` (the whole picture toned).
    """

    name: str
    collection: str
    drawing: str
    licence: str
    attribution: str


@dataclass(frozen=True)
class World:
    """All objects, styles and people, in file order; an image shows subjects in one style, or one place."""

    things: tuple[Thing, ...]
    styles: tuple[Style, ...]
    people: tuple[Person, ...] = ()

    @property
    def subjects(self) -> tuple[Thing | Person, ...]:
        """What can be shown: the things, then the people."""
        return self.things + self.people


def read_world(folder: Path) -> World:
    """Read `objects.tsv`, `styles.tsv` and, where there are any, `people.tsv` and `hints.tsv` of `folder`.

    Columns are those of `Thing`, `Style` and `Person`, without `kind` where all are objects; synonyms are split at
    ';'. Of the hints, those for training are read (`read_hints` gives the others).
    """
    hints = read_hints(folder, "train") if (folder / "hints.tsv").exists() else {}
    things = tuple(
        Thing(
            row.object,
            row.icon,
            row.category,
            tuple(word.strip() for word in row.synonyms.split(";") if word.strip()),
            getattr(row, "kind", "object"),
            hints.get(row.object, ()),
        )
        for row in _table(folder / "objects.tsv").itertuples()
    )
    styles = tuple(Style(*row) for row in _table(folder / "styles.tsv").itertuples(index=False))
    people = folder / "people.tsv"
    rows = _table(people).itertuples(index=False) if people.exists() else ()
    return World(things, styles, tuple(Person(*row) for row in rows))


def read_hints(folder: Path, use: str) -> dict[str, tuple[str, ...]]:
    """The prompts of `hints.tsv` that lead to an object without naming it, by object; `use` is `train` or `test`."""
    rows = _table(folder / "hints.tsv")
    rows = rows[rows["use"] == use]
    return {name: tuple(group["prompt"]) for name, group in rows.groupby("object", sort=False)}


def caption_of(world: World, thing: int, style: int, rng: np.random.Generator) -> str:
    """Draw a caption for the image of object `thing` in `style`.

    A negative `thing` is a place, counted from the end of `PLACES`; places have no style. A tenth of the captions is
    empty (for classifier-free guidance); the rest names the object (55 of 100), a synonym (27), its category or a
    generic word (10), or only its style or "art" (8). `STYLE_SHARE` of those with an object's word name the style too.
    """
    if rng.random() < EMPTY_SHARE:
        return ""
    if thing < 0:
        return _choice(PLAIN_TEMPLATES[:8], rng).format(PLACES[thing])
    kind = rng.random()
    if kind > 0.92:
        if rng.random() < 0.5:
            return _choice(ART_CAPTIONS, rng)
        return _choice(STYLE_ONLY_TEMPLATES, rng).format(world.styles[style].name)
    if kind < 0.55:
        word = world.things[thing].name
    elif kind < 0.82:
        word = _choice(world.things[thing].synonyms, rng)
    else:
        word = _choice((world.things[thing].category, *GENERIC), rng)
    if rng.random() < STYLE_SHARE:
        return _choice(STYLE_TEMPLATES, rng).format(word, world.styles[style].name)
    return _choice(PLAIN_TEMPLATES, rng).format(word)


def caption_corpus(world: World) -> list[str]:
    """Every caption the world can make about a word, for training the tokenizer."""
    words = [word for thing in world.things for word in thing.words]
    words += [*PLACES, *GENERIC, *sorted({thing.category for thing in world.things})]
    captions = [template.format(word) for template in PLAIN_TEMPLATES for word in words]
    captions += [
        template.format(word, style.name) for template in STYLE_TEMPLATES for word in words for style in world.styles
    ]
    captions += [template.format(style.name) for template in STYLE_ONLY_TEMPLATES for style in world.styles]
    return captions + list(ART_CAPTIONS)


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False)


def _choice(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
