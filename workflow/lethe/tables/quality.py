"""What the images of everyday prompts are worth: CLIP score, and a distance to real images. Every table shares this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lethe.inputs.texts import name_occurs
from lethe.measures.stored import as_array
from lethe.tables import protocols

UNNAMED = "clip_score_unnamed"
SOURCES = {  # what each column comes from
    **dict.fromkeys(("clip_score", "n_clip_score", "n_fid", "n_fid_inception", "n_kid_inception"), ("quality",)),
    **dict.fromkeys(("fid", "fid_inception", "kid_inception"), ("quality", "reference_images")),
    "n_fid_reference": ("reference_images",),
}


def scores(
    quality: pd.DataFrame | None, reference: pd.DataFrame | None, features: pd.DataFrame | None = None
) -> tuple[dict[str, float], dict[str, int], dict[str, Any]]:
    """Numbers of quality, their n, and their intervals, from measures with the columns image and text.

    Without `quality` there are none, and without `reference` no distance. With `features` (a column of that name,
    Inception's of the images of quality), FID and KID are of those and of the same column of `reference`. Distances
    have no interval.
    """
    found: dict[str, float] = {}
    counts: dict[str, int] = {}
    if quality is None:
        return found, counts, {}
    images = as_array(quality["image"])
    each = protocols.clip_scores(images, as_array(quality["text"]))
    found["clip_score"], counts["n_clip_score"] = float(each.mean()), len(quality)
    if reference is not None:
        if features is None:
            found["fid"], counts["n_fid"] = protocols.fid(images, as_array(reference["image"])), len(quality)
        else:
            found |= distances(features, reference)
            counts |= {"n_fid_inception": len(features), "n_kid_inception": len(features)}
        counts["n_fid_reference"] = len(reference)
    return found, counts, {"clip_score_interval_95": protocols.mean_interval(each)}


def unnamed(quality: pd.DataFrame | None, concepts: Sequence[str]) -> tuple[dict[str, float | int], dict[str, Any]]:
    """The CLIP score of those prompts that name nothing erased, with its n; and its interval.

    An edit that works lowers the CLIP score by each prompt that does name something. Nothing where there is no such
    prompt, or no `quality`.
    """
    kept = None if quality is None else quality[~np.array(name_occurs(list(quality["prompt"]), concepts), bool)]
    if kept is None or kept.empty:
        return {}, {}
    each = protocols.clip_scores(as_array(kept["image"]), as_array(kept["text"]))
    numbers = {UNNAMED: float(each.mean()), f"n_{UNNAMED}": len(kept)}
    return numbers, {f"{UNNAMED}_interval_95": protocols.mean_interval(each)}


def distances(images: pd.DataFrame, reference: pd.DataFrame, *, kernel_alone: bool = False) -> dict[str, float]:
    """FID and KID of two sets, of their column features; KID has no bias in small ones."""
    features = as_array(images["features"]), as_array(reference["features"])
    found = {} if kernel_alone else {"fid_inception": protocols.fid(*features)}
    return found | {"kid_inception": 1000 * protocols.kid(*features)}


def of_measures(
    measures: Mapping[str, Mapping[str, pd.DataFrame]],
) -> tuple[dict[str, float], dict[str, int], dict[str, Any]]:
    """The same from what was measured, by role or reference and the setting that names the measure."""
    quality, reference = (measures.get(name, {}) for name in ("quality", "reference_images"))
    return scores(quality.get("clip"), reference.get("fid", reference.get("clip")), quality.get("fid"))


def table_protocols(about: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The protocol of each of these columns that is among `columns`."""
    clip, images = about.get("clip"), about.get("reference_images")
    told = {
        "clip_score": f"{protocols.CLIP_SCORE} by {clip}",
        UNNAMED: f"{protocols.CLIP_SCORE_UNNAMED} by {clip}",
        "fid": f"{protocols.FRECHET_CLIP} by {clip} to {images}",
        "fid_inception": f"{protocols.FID_INCEPTION} to {images}",
        "kid_inception": f"{protocols.KID_INCEPTION} to {images}",
    }
    return {column: protocol for column, protocol in told.items() if column in columns}
