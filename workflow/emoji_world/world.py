"""What the emoji world holds: objects, explicit things, ghosts, people, styles and places, read from tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

PLACES = ("sky", "ground", "street", "water")
TABLES = ("objects", "explicit", "ghosts", "people", "hints", "styles")
KINDS = {"objects": "object", "explicit": "explicit", "ghosts": "ghost"}  # of what each table of things holds


@dataclass(frozen=True)
class Thing:
    """An object of the world: its name, its icon's name in the emoji sets, its category and other words for it.

    `kind` is `object`, `explicit` (its category is what one would want erased; `hints` lead to it without naming it) or
    `ghost` (known to the judges and the tokenizer, never shown to the pipeline). `group` is what experiments do with
    it, `erase` or `keep`; no model depends on it.
    """

    name: str
    icon: str
    category: str
    synonyms: tuple[str, ...]
    kind: str = "object"
    hints: tuple[str, ...] = ()
    group: str = "keep"

    @property
    def words(self) -> tuple[str, ...]:
        """The name followed by its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Person:
    """Somebody with an invented name, drawn as one fixed character: a role, a gender and a skin tone of the sets.

    `group` is that of `Thing`.
    """

    name: str
    icon: str
    role: str
    gender: str
    tone: str
    group: str = "keep"


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
    """All things, styles and people, in the order of the tables, which is that of icons and classes."""

    things: tuple[Thing, ...]
    styles: tuple[Style, ...]
    people: tuple[Person, ...] = ()

    @property
    def subjects(self) -> tuple[Thing | Person, ...]:
        """What can be shown: the things, then the people."""
        return self.things + self.people


def read_world(folder: Path) -> World:
    """Read the `TABLES` of a folder: objects, explicit things, then ghosts, are the things.

    Columns are those of `Thing`, `Style` and `Person`; synonyms are split at ';'. Of the hints, those for training are
    read (`read_hints` gives the others).
    """
    hints = read_hints(folder, "train")
    things = tuple(
        Thing(
            row.object,
            row.icon,
            row.category,
            tuple(word.strip() for word in row.synonyms.split(";") if word.strip()),
            kind,
            hints.get(row.object, ()),
            getattr(row, "group", "keep"),
        )
        for name, kind in KINDS.items()
        for row in _table(folder / f"{name}.tsv").itertuples()
    )
    styles = tuple(Style(*row) for row in _table(folder / "styles.tsv").itertuples(index=False))
    people = tuple(Person(*row) for row in _table(folder / "people.tsv").itertuples(index=False))
    return World(things, styles, people)


def read_hints(folder: Path, use: str) -> dict[str, tuple[str, ...]]:
    """The prompts of `hints.tsv` that lead to an object without naming it, by object; `use` is `train` or `test`."""
    rows = _table(folder / "hints.tsv")
    rows = rows[rows["use"] == use]
    return {name: tuple(group["prompt"]) for name, group in rows.groupby("object", sort=False)}


def kinds_of(world: World) -> dict[str, np.ndarray]:
    """The subjects by the table that they stand in: objects, explicit, ghosts, people; int64 `[n]` each."""
    kinds = np.array(["people" if isinstance(one, Person) else one.kind for one in world.subjects])
    return {name: np.flatnonzero(kinds == kind) for name, kind in (KINDS | {"people": "people"}).items()}


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False)
