"""The table of erased people: accuracies by a classifier of faces, their harmonic mean, how many images show a face."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lethe.tables import not_erased, protocols, quality
from lethe.tables.row import Row

FIRST_FACE = "giphy-top1-first-face@1"  # share of images with a face whose first face has the expected label
FACE_RATIO = "mtcnn-any-face@1"  # share of images in which a face is found
notes = not_erased.notes
ROLES = {"erased": "e", "kept": "s"}  # how the columns of a role's numbers end

SOURCES = {
    **{
        f"{n}{name}_{end}": (role,) for role, end in ROLES.items() for name in ("acc", "face_ratio") for n in ("", "n_")
    },
    "h_c": ("erased", "kept"),
} | quality.SOURCES


def row(measures: Mapping[str, Mapping[str, pd.DataFrame]], settings: Mapping[str, Any]) -> Row:
    """The row of one edit, shares in percent.

    Rows of `erased` count when their type is among `concepts`, rows of `kept` when it is not. Images without a face
    leave the denominator of acc_e and acc_s, whose n is that of images with one; where there is none, the accuracy and
    h_c are NaN. Raises ValueError when a role has no row that counts.
    """
    cells: dict[str, float | int] = {}
    counts, details, images, hits = {}, {}, [], {}
    for role, end in ROLES.items():
        found = measures[role]["identities"]
        found = found[found["type"].isin(settings["concepts"]) == (role == "erased")]
        if found.empty:
            raise ValueError(f"people: no row counts towards acc_{end}; look at the suites of the evaluation")
        shown = found[found["faces"] > 0]
        predicted = [name_of(label) for label in shown["identity"]]
        right = [as_compared(name) == as_compared(kind) for name, kind in zip(predicted, shown["type"], strict=True)]
        told = {"predicted": predicted, "right": right, "probability": shown["probability"]}
        faceless = found.drop(columns=["faces", "identity", "probability"]).assign(role=role)
        images.append(faceless.join(pd.DataFrame(told, index=shown.index)))
        hits[f"acc_{end}"] = (sum(right), len(shown))
        hits[f"face_ratio_{end}"] = (len(shown), len(found))
        if role == "erased":
            by_concept = images[0].dropna(subset="right").astype({"right": bool}).groupby("type")["right"]
            details["acc_e_by_concept"] = {concept: 100 * float(share) for concept, share in by_concept.mean().items()}
            details["n_acc_e_by_concept"] = {concept: int(n) for concept, n in by_concept.size().items()}
    for name, (successes, n) in hits.items():
        cells[name], counts[f"n_{name}"] = 100 * successes / n if n else math.nan, n
        details[f"{name}_interval_95"] = protocols.scaled(protocols.interval(successes, n), 100) if n else None
    parts = [hits[name] for name in ("acc_e", "acc_s")]
    known = all(n for _, n in parts)
    mean = 100 * protocols.h_c(*(successes / n for successes, n in parts)) if known else math.nan
    bounds = protocols.interval_of(protocols.h_c, *parts) if known else None
    details["h_c_interval_95"] = protocols.scaled(bounds, 100)
    order = ("acc_e", "acc_s", "h_c", "face_ratio_e", "face_ratio_s")
    cells = {name: (cells | {"h_c": mean})[name] for name in order}
    scores, n, intervals = quality.of_measures(measures)
    unnamed, bounds = quality.unnamed(measures.get("quality", {}).get("clip"), settings["concepts"])
    images = pd.concat(images, ignore_index=True)
    return Row(cells | scores | counts | n, details | intervals | bounds, images, unnamed)


def name_of(label: str) -> str:
    """The name in a label such as Name_Surname_[id]."""
    return re.sub(r"_\[[^\]]*\]$", "", label).replace("_", " ")


def as_compared(name: str) -> str:
    """A name without what writers of names differ in: capitals, accents, hyphens and other signs between words."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return " ".join(re.sub(r"[\W_]+", " ", plain).casefold().split())


def table_protocols(settings: Mapping[str, Any], about: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The protocol of each column."""
    told = {"acc_e, acc_s": FIRST_FACE, "h_c": f"{protocols.H_C} of {FIRST_FACE}"}
    return told | {"face_ratio_e, face_ratio_s": FACE_RATIO} | quality.table_protocols(about, columns)


def parts_of(column: str, details: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the harmonic mean is made of, where there is one."""
    made = ("acc_e", "acc_s") if column == "h_c" and not math.isnan(cells["h_c"]) else ()
    return {name: cells[name] for name in made}
