"""The table of erased styles: CLIP scores of what is erased and of what is kept, and their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lethe.measures.stored import as_array
from lethe.tables import not_erased, objects, protocols, quality
from lethe.tables.row import Row

ROLES = {"erased": "clip_e", "kept": "clip_s"}
SOURCES = {
    **{f"{n}{name}": (role,) for role, name in ROLES.items() for n in ("", "n_")},
    "h_a": ("erased", "kept"),
    **{name: objects.SOURCES[name] for name in ("acc_e", "acc_s", "h_c", "n_acc_e", "n_acc_s")},
} | quality.SOURCES


def notes(task: str, rows: Mapping[str, Row], remedies: Mapping[str, str]) -> list[str]:
    """What to say of styles that are recognised as before, where there are classes."""
    recognised = "acc_e_by_concept" in rows["original"].details
    return not_erased.notes(task, rows, remedies) if recognised else []


def row(measures: Mapping[str, Mapping[str, pd.DataFrame]], settings: Mapping[str, Any]) -> Row:
    """The row of one edit: CLIP scores of images and their own prompts, 100 cos, and h_a = clip_s - clip_e.

    Rows of `erased` count when their type is among `concepts`, rows of `kept` when it is not. With classes also the
    accuracies between them and h_c, as of objects without synonyms. Raises ValueError when a role has no row that
    counts.
    """
    each, counts, details, images = {}, {}, {}, []
    for role, name in ROLES.items():
        found = measures[role]["clip"]
        found = found[found["type"].isin(settings["concepts"]) == (role == "erased")]
        if found.empty:
            raise ValueError(f"styles: no row counts towards {name}; look at the suites of the evaluation")
        each[name] = protocols.clip_scores(as_array(found["image"]), as_array(found["text"]))
        counts[f"n_{name}"] = len(found)
        details[f"{name}_interval_95"] = protocols.mean_interval(each[name])
        images.append(found.drop(columns=["image", "text"]).assign(role=role, score=each[name]))
        if role == "erased":
            by_concept = pd.Series(each[name]).groupby(found["type"].to_numpy()).mean()
            details["clip_e_by_concept"] = {concept: float(score) for concept, score in by_concept.items()}
    cells = {name: float(values.mean()) for name, values in each.items()}
    cells["h_a"] = protocols.h_a(cells["clip_e"], cells["clip_s"])
    details["h_a_interval_95"] = protocols.bootstrap(protocols.h_a, each["clip_e"], each["clip_s"])
    scores, n, intervals = quality.of_measures(measures)
    images = pd.concat(images, ignore_index=True)
    if "classes" not in measures:
        return Row(cells | scores | counts | n, details | intervals, images)
    by = {role: measures[role]["clip"] for role in (*ROLES, "classes")}
    recognised = objects.object_scores(**by, generality=None, concepts=settings["concepts"])
    more, beside = recognised.pop("details"), recognised.pop("beside")
    numbers = {name: recognised.pop(name) for name in ("acc_e", "acc_s", "h_c")}
    return Row(cells | numbers | scores | counts | recognised | n, details | more | intervals, images, beside)


def table_protocols(settings: Mapping[str, Any], about: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The protocol of each column."""
    score = f"{protocols.CLIP_SCORE} by {about.get('clip')}"
    told = {"clip_e, clip_s": score, "h_a": f"{protocols.H_A} of {score}"}
    return told | objects.table_protocols(settings, about, columns)


def parts_of(column: str, details: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, float]:
    """The two scores whose difference a column is; of what else is made of others, as for objects."""
    if column == "h_a":
        return {name: cells[name] for name in ROLES.values()}
    return objects.parts_of(column, details, cells)
