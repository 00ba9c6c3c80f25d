"""What edits share that solve for each layer by itself: which layers they change, and bases of what they turn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lethe.bases.unet import PROJECTIONS

_, VALUES = PROJECTIONS
CHOICES = ("values", "both")


def chosen_projections(projections: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    """The cross-attention projections that make values of text (`values`), or those of keys too (`both`).

    Raises ValueError for another choice.
    """
    if which not in CHOICES:
        raise ValueError(f"projections must be one of {', '.join(CHOICES)}; got {which!r}")
    return {name: weight for name, weight in projections.items() if which == "both" or name.endswith(VALUES)}


def basis(columns: Tensor, *, relative: float, to: float | None = None) -> Tensor:
    """An orthonormal basis `[d, r]` of what the columns of `[d, n]` span; r is 0 of none, or where all are 0.

    Directions in which their singular value is at most `relative` times `to`, by default the largest one, do not count:
    columns that are the same but for rounding span one.
    """
    if not columns.numel():
        return columns.new_zeros(len(columns), 0)
    vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > relative * (values[0] if to is None else to)]
