"""The table of erased objects: accuracies by CLIP, their harmonic mean, CLIP score and FID, every number with its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lethe.measures.stored import as_array
from lethe.tables import not_erased, protocols
from lethe.tables.row import Row

OBJECT_SOURCES = {  # what each column of the table with generality comes from: roles, texts and references
    "acc_e": ("erased", "classes"),
    "acc_g": ("generality", "classes"),
    "acc_s": ("kept", "classes"),
    "h_o": ("erased", "generality", "kept", "classes"),
    "clip_score": ("quality",),
    "fid": ("quality", "reference_images"),
    "n_acc_e": ("erased", "classes"),
    "n_acc_g": ("generality", "classes"),
    "n_acc_s": ("kept", "classes"),
    "n_clip_score": ("quality",),
    "n_fid": ("quality",),
    "n_fid_reference": ("reference_images",),
}
INCEPTION_SOURCES = {  # of the columns that stand in place of fid and n_fid where Inception's features are measured
    "fid_inception": ("quality", "reference_images"),
    "kid_inception": ("quality", "reference_images"),
    "n_fid_inception": ("quality",),
    "n_kid_inception": ("quality",),
}
# Of the columns with and without generality, and of either FID.
SOURCES = OBJECT_SOURCES | {"h_c": ("erased", "kept", "classes")} | INCEPTION_SOURCES


def row(measures: Mapping[str, Mapping[str, pd.DataFrame]], settings: Mapping[str, Any]) -> Row:
    """The row of one edit, from what was measured of each role, text and reference, by the setting of the measure.

    `settings` are those of the evaluation, and `concepts`, what was erased. Raises ValueError as `object_scores` does.
    """
    by = {name: found["clip"] for name, found in measures.items() if "clip" in found}
    features = {name: found["fid"] for name, found in measures.items() if "fid" in found}
    parts = {role: by.get(role) for role in ("erased", "generality", "kept", "quality")}
    scores = object_scores(
        **parts,
        classes=by["classes"],
        reference=features.get("reference_images", by.get("reference_images")),
        concepts=settings["concepts"],
        features=features.get("quality"),
    )
    details = scores.pop("details")
    images = predictions({role: by[role] for role in ROLES if role in by}, by["classes"], settings["concepts"])
    return Row(scores, details, images)


HARMONIC = ("acc_e", "acc_s", "acc_g")  # in the order of `protocols.h_o`
ROLES = {"erased": "acc_e", "generality": "acc_g", "kept": "acc_s"}  # what the rows of a role count towards


notes = not_erased.notes
FID = "clean-fid's Frechet distance over embeddings of {}; not an Inception FID"


def counting(role: str, rows: pd.DataFrame, classes: Sequence[str], concepts: Sequence[str]) -> pd.DataFrame:
    """The rows of a role that count: those whose type is erased, or is a class that is not."""
    return rows[rows["type"].isin(set(classes) - set(concepts) if role == "kept" else concepts)]


def predictions(roles: Mapping[str, pd.DataFrame], classes: pd.DataFrame, concepts: Sequence[str]) -> pd.DataFrame:
    """What every image that counts was taken for: its own columns, role, predicted, right."""
    names, texts = list(classes["class"]), as_array(classes["text"])
    parts = []
    for role, rows in roles.items():
        chosen = counting(role, rows, names, concepts)
        found = [names[index] for index in protocols.predicted_classes(as_array(chosen["image"]), texts)]
        told = chosen.drop(columns=["image", "text"]).assign(role=role, predicted=found)
        parts.append(told.assign(right=told["predicted"] == told["type"]))
    return pd.concat(parts, ignore_index=True)


def table_protocols(settings: Mapping[str, Any], models: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """The protocol of each column; `models` are those of the measures, by the setting that names the measure."""
    accuracies = ", ".join(name for name in ("acc_e", "acc_g", "acc_s") if name in columns)
    return {
        accuracies: f"{protocols.ACCURACY}, percent, classes and judge as in settings",
        "class_probability": protocols.CLASS_PROBABILITY,
        **({"h_o": protocols.H_O} if "h_o" in columns else {"h_c": protocols.H_C}),
        **({"clip_score": protocols.CLIP_SCORE} if "clip_score" in columns else {}),
        **({"fid": FID.format(models["clip"])} if "fid" in columns else {}),
        **({"fid_inception": protocols.FID_INCEPTION} if "fid_inception" in columns else {}),
        **({"kid_inception": protocols.KID_INCEPTION} if "kid_inception" in columns else {}),
    }


def parts_of(column: str, details: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a column is made of, for `lethe trace`."""
    made = {"h_o": ("acc_e", "acc_g", "acc_s"), "h_c": ("acc_e", "acc_s")}.get(column, ())
    return {name: cells[name] for name in made}


def object_scores(
    erased: pd.DataFrame,
    generality: pd.DataFrame | None,
    kept: pd.DataFrame,
    quality: pd.DataFrame | None,
    classes: pd.DataFrame,
    reference: pd.DataFrame | None,
    concepts: Sequence[str],
    features: pd.DataFrame | None = None,
) -> dict:
    """Scores of one edit from its measures (columns type, image, text), in percent where they are shares.

    Rows of `erased` and `generality` count when their type is an erased concept, rows of `kept` when it is a class
    that is not erased. Without `generality` there is no acc_g, and h_c in place of h_o; without `quality` no CLIP
    score, and without it or `reference` no FID. `classes` has columns class, text. With `features` (a column of that
    name, Inception's of the images of `quality`), FID and KID are of those and of the same column of `reference`.
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
    texts, scores, counts, more = as_array(classes["text"]), {}, {}, {}
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
        more[f"{name}_class_probability"] = 100 * protocols.class_probability(images, texts, expected)
        hits = round(scores[name] / 100 * len(rows))
        more[f"{name}_interval_95"] = [100 * bound for bound in protocols.interval(hits, len(rows))]
    mean, order = (protocols.h_c, ("acc_e", "acc_s")) if generality is None else (protocols.h_o, HARMONIC)
    name = mean.__name__
    scores[name] = 100 * mean(*(scores[part] / 100 for part in order))
    counted = [(round(scores[part] / 100 * counts[f"n_{part}"]), counts[f"n_{part}"]) for part in order]
    more[f"{name}_interval_95"] = [100 * bound for bound in protocols.interval_of(mean, *counted)]
    if quality is not None:
        images = as_array(quality["image"])
        scores["clip_score"], counts["n_clip_score"] = (
            protocols.clip_score(images, as_array(quality["text"])),
            len(quality),
        )
        if reference is not None:
            if features is None:
                scores["fid"], counts["n_fid"] = protocols.fid(images, as_array(reference["image"])), len(quality)
            else:
                of_images, of_reference = as_array(features["features"]), as_array(reference["features"])
                scores["fid_inception"] = protocols.fid(of_images, of_reference)
                scores["kid_inception"] = 1000 * protocols.kid(of_images, of_reference)
                counts |= {"n_fid_inception": len(features), "n_kid_inception": len(features)}
            counts["n_fid_reference"] = len(reference)
    if broken := [name for name, score in scores.items() if not np.isfinite(score)]:
        raise ValueError(f"object_scores: {broken[0]} is {scores[broken[0]]}; look at the measures behind it")
    return {**scores, **counts, "details": more}
