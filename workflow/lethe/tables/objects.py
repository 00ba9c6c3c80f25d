"""Tables of an evaluation: one row per method, every number with its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lethe.measures.stored import as_array
from lethe.tables import protocols

OBJECT_SOURCES = {  # what each column of the objects table with generality comes from: arguments of `object_scores`
    "acc_e": ("erased", "classes"),
    "acc_g": ("generality", "classes"),
    "acc_s": ("kept", "classes"),
    "h_o": ("erased", "generality", "kept", "classes"),
    "clip_score": ("quality",),
    "fid": ("quality", "reference"),
    "n_acc_e": ("erased", "classes"),
    "n_acc_g": ("generality", "classes"),
    "n_acc_s": ("kept", "classes"),
    "n_clip_score": ("quality",),
    "n_fid": ("quality",),
    "n_fid_reference": ("reference",),
}
SOURCES = OBJECT_SOURCES | {"h_c": ("erased", "kept", "classes")}  # of the columns with and without generality


def object_scores(
    erased: pd.DataFrame,
    generality: pd.DataFrame | None,
    kept: pd.DataFrame,
    quality: pd.DataFrame,
    classes: pd.DataFrame,
    reference: pd.DataFrame,
    concepts: Sequence[str],
) -> dict:
    """Scores of one edit from its measures (columns type, image, text), in percent where they are shares.

    Rows of `erased` and `generality` count when their type is an erased concept, rows of `kept` when it is a class
    that is not erased. Without `generality` there is no acc_g, and h_c in place of h_o. `classes` has columns class,
    text. Raises ValueError when a number would have no image, or is none.
    """
    names = list(classes["class"])
    index = {name: number for number, name in enumerate(names)}
    if len(index) < len(names):
        raise ValueError("object_scores: a class is there twice; its accuracy would be 0")
    if unknown := sorted(set(concepts) - set(names)):
        raise ValueError(f"object_scores: {unknown[0]!r} is erased but not among the classes")
    parts = {
        "acc_e": erased[erased["type"].isin(concepts)],
        **({} if generality is None else {"acc_g": generality[generality["type"].isin(concepts)]}),
        "acc_s": kept[kept["type"].isin(set(names) - set(concepts))],
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
    shares = {name: scores[name] / 100 for name in parts}
    if generality is None:
        scores["h_c"] = 100 * protocols.h_c(shares["acc_e"], shares["acc_s"])
    else:
        scores["h_o"] = 100 * protocols.h_o(shares["acc_e"], shares["acc_s"], shares["acc_g"])
    images = as_array(quality["image"])
    scores["clip_score"] = protocols.clip_score(images, as_array(quality["text"]))
    scores["fid"] = protocols.fid(images, as_array(reference["image"]))
    if broken := [name for name, score in scores.items() if not np.isfinite(score)]:
        raise ValueError(f"object_scores: {broken[0]} is {scores[broken[0]]}; look at the measures behind it")
    counts |= {"n_clip_score": len(quality), "n_fid": len(quality), "n_fid_reference": len(reference)}
    return {**scores, **counts, "details": more}


REMEDIES = {"mace": "lower mace.train_preserve_scale, or raise mace.lora.steps"}  # of edits that erase too little


def erasure_notes(task: str, scores: Mapping[str, Mapping]) -> list[str]:
    """What to say of edits that did not erase: a sentence for each method of a task, from its `object_scores`.

    A concept is not erased when it is recognised as often as in the images of the base as it is (the method
    `original`). Of a concept that is never recognised there, no number says whether it was erased.
    """
    found = []
    before = scores["original"]["details"]["acc_e_by_concept"]
    if never := [concept for concept, share in before.items() if share == 0]:
        told = f"the base as it is never draws {_few(never)} so that the judge knows it"
        found.append(f"{task}: {told}; whether that was erased, these images cannot show")
    for method, score in scores.items():
        if method == "original":
            continue
        after, counts = score["details"]["acc_e_by_concept"], score["details"]["n_acc_e_by_concept"]
        as_before = [concept for concept, share in after.items() if share >= before.get(concept, 0) > 0]
        if as_before:
            worst = max(as_before, key=after.__getitem__)
            hits, once = (round(counts[worst] * share / 100) for share in (after[worst], before[worst]))
            told = f"{len(as_before)} of {len(after)} concepts as before, such as {worst!r} ({hits} of {counts[worst]} "
            mend = REMEDIES.get(method, f"look at the settings of {method}")
            found.append(f"{task}/{method}: {told}images, before {once}): not erased; {mend}")
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def objects_table(scores: Mapping[str, Mapping]) -> pd.DataFrame:
    """Scores by method as a table, rounded to two digits; the first column is the method."""
    rows = [{"method": method} | {k: v for k, v in s.items() if k != "details"} for method, s in scores.items()]
    return pd.DataFrame(rows).round(2)
