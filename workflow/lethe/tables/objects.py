"""The table of erased objects: accuracies by CLIP, their harmonic mean, CLIP score and FID, every number with its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lethe.measures.stored import as_array
from lethe.tables import not_erased, protocols, quality
from lethe.tables.row import Row

OBJECT_SOURCES = {  # what each column of the table with generality comes from: roles, texts and references
    "acc_e": ("erased", "classes"),
    "acc_g": ("generality", "classes"),
    "acc_s": ("kept", "classes"),
    "h_o": ("erased", "generality", "kept", "classes"),
    "n_acc_e": ("erased", "classes"),
    "n_acc_g": ("generality", "classes"),
    "n_acc_s": ("kept", "classes"),
}
# Of the columns with and without generality, and of either FID.
SOURCES = OBJECT_SOURCES | {"h_c": ("erased", "kept", "classes")} | quality.SOURCES
BY_PROBABILITY = "_class_probability"  # how the name of a number ends that is made of probabilities instead


def row(measures: Mapping[str, Mapping[str, pd.DataFrame]], settings: Mapping[str, Any]) -> Row:
    """The row of one edit, from what was measured of each role, text and reference, by the setting of the measure.

    `settings` are those of the evaluation, and `concepts`, what was erased. Raises ValueError as `object_scores` does.
    """
    by = {name: found["clip"] for name, found in measures.items() if "clip" in found}
    parts = {role: by.get(role) for role in ("erased", "generality", "kept")}
    of_quality = quality.of_measures(measures)
    scores = object_scores(**parts, classes=by["classes"], concepts=settings["concepts"], of_quality=of_quality)
    unnamed, bounds = quality.unnamed(by.get("quality"), settings["concepts"])
    details, beside = scores.pop("details") | bounds, scores.pop("beside") | unnamed
    images = predictions({role: by[role] for role in ROLES if role in by}, by["classes"], settings["concepts"])
    return Row(scores, details, images, beside)


HARMONIC = ("acc_e", "acc_s", "acc_g")  # in the order of `protocols.h_o`
ROLES = {"erased": "acc_e", "generality": "acc_g", "kept": "acc_s"}  # what the rows of a role count towards


notes = not_erased.notes


def counting(role: str, rows: pd.DataFrame, classes: Sequence[str], concepts: Sequence[str]) -> pd.DataFrame:
    """The rows of a role that count: those whose type is erased, or is a class that is not."""
    return rows[rows["type"].isin(set(classes) - set(concepts) if role == "kept" else concepts)]


def predictions(roles: Mapping[str, pd.DataFrame], classes: pd.DataFrame, concepts: Sequence[str]) -> pd.DataFrame:
    """What every image that counts was taken for: its own columns and those of `Row.images`."""
    names, texts = list(classes["class"]), as_array(classes["text"])
    parts = []
    for role, rows in roles.items():
        chosen = counting(role, rows, names, concepts)
        images = as_array(chosen["image"])
        indices = protocols.predicted_classes(images, texts)
        told = chosen.drop(columns=["image", "text"]).assign(role=role, predicted=[names[index] for index in indices])
        told["right"] = told["predicted"] == told["type"]
        told["probability"] = protocols.class_probabilities(images, texts, indices)
        expected = [names.index(kind) for kind in told["type"]]
        parts.append(told.assign(type_probability=protocols.class_probabilities(images, texts, expected)))
    return pd.concat(parts, ignore_index=True)


def table_protocols(settings: Mapping[str, Any], about: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The protocol of each column; `about` has the models of measures by the setting that names the measure, the number
    of classes, and the names of references."""
    found = {}
    for protocol, end in ((protocols.ACCURACY, ""), (protocols.CLASS_PROBABILITY, BY_PROBABILITY)):
        whole = f"{protocol} of {about.get('classes')} classes by {about.get('clip')}"
        found |= {f"{name}{end}": whole for name in HARMONIC}
        found |= {f"h_o{end}": f"{protocols.H_O} of {whole}", f"h_c{end}": f"{protocols.H_C} of {whole}"}
    told = {name: protocol for name, protocol in found.items() if name in columns}
    return told | quality.table_protocols(about, columns)


def parts_of(column: str, details: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a column is made of, for `lethe trace`."""
    name = column.removesuffix(BY_PROBABILITY)
    made = {"h_o": ("acc_e", "acc_g", "acc_s"), "h_c": ("acc_e", "acc_s")}.get(name, ())
    parts = [f"{part}{column.removeprefix(name)}" for part in made]
    return {part: cells[part] for part in parts}


def object_scores(
    erased: pd.DataFrame,
    generality: pd.DataFrame | None,
    kept: pd.DataFrame,
    classes: pd.DataFrame,
    concepts: Sequence[str],
    of_quality: tuple[dict[str, float], dict[str, int], dict[str, Any]] = ({}, {}, {}),
) -> dict:
    """Scores of one edit from its measures (columns type, image, text), in percent where they are shares.

    Rows of `erased` and `generality` count when their type is an erased concept, rows of `kept` when it is a class
    that is not erased. Without `generality` there is no acc_g, and h_c in place of h_o. `classes` has columns class,
    text; `of_quality` is what `quality.scores` gives. Beside are the same numbers by the mean class probability.
    Raises ValueError when a number would have no image, or is none.
    """
    names = list(classes["class"])
    index = {name: number for number, name in enumerate(names)}
    if len(index) < len(names):
        raise ValueError("object_scores: a class is there twice; its accuracy would be 0")
    if unknown := sorted(set(concepts) - set(names)):
        raise ValueError(f"object_scores: {unknown[0]!r} is erased but not among the classes")
    parts = {
        "acc_e": counting("erased", erased, names, concepts),
        **({} if generality is None else {"acc_g": counting("generality", generality, names, concepts)}),
        "acc_s": counting("kept", kept, names, concepts),
    }
    texts, scores, counts, more, beside = as_array(classes["text"]), {}, {}, {}, {}
    each = {}  # probabilities of images
    for name, rows in parts.items():
        if rows.empty:
            raise ValueError(f"object_scores: no row counts towards {name}; look at the suites of the evaluation")
        images, expected = as_array(rows["image"]), [index[kind] for kind in rows["type"]]
        scores[name] = 100 * protocols.accuracy(images, texts, expected)
        if name == "acc_e":
            hits_of = pd.Series(protocols.predicted_classes(images, texts) == expected).groupby(rows["type"].to_numpy())
            more["acc_e_by_concept"] = {concept: 100 * float(share) for concept, share in hits_of.mean().items()}
            more["n_acc_e_by_concept"] = {concept: int(n) for concept, n in hits_of.size().items()}
        counts[f"n_{name}"] = len(rows)
        hits = round(scores[name] / 100 * len(rows))
        more[f"{name}_interval_95"] = protocols.scaled(protocols.interval(hits, len(rows)), 100)
        each[name] = protocols.class_probabilities(images, texts, expected)
        beside |= {f"{name}{BY_PROBABILITY}": 100 * float(each[name].mean()), f"n_{name}{BY_PROBABILITY}": len(rows)}
        more[f"{name}{BY_PROBABILITY}_interval_95"] = protocols.scaled(protocols.mean_interval(each[name]), 100)
    mean, order = (protocols.h_c, ("acc_e", "acc_s")) if generality is None else (protocols.h_o, HARMONIC)
    name = mean.__name__
    scores[name] = 100 * mean(*(scores[part] / 100 for part in order))
    counted = [(round(scores[part] / 100 * counts[f"n_{part}"]), counts[f"n_{part}"]) for part in order]
    more[f"{name}_interval_95"] = protocols.scaled(protocols.interval_of(mean, *counted), 100)
    beside[f"{name}{BY_PROBABILITY}"] = 100 * mean(*(float(each[part].mean()) for part in order))
    bounds = protocols.bootstrap(mean, *(each[part] for part in order))
    more[f"{name}{BY_PROBABILITY}_interval_95"] = protocols.scaled(bounds, 100)
    found, n, intervals = of_quality
    scores, counts, more = scores | found, counts | n, more | intervals
    if broken := [name for name, score in scores.items() if not np.isfinite(score)]:
        raise ValueError(f"object_scores: {broken[0]} is {scores[broken[0]]}; look at the measures behind it")
    return {**scores, **counts, "details": more, "beside": beside}
