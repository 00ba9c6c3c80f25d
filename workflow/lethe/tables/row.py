"""What a table says of one edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Row:
    """Numbers of one edit: `cells` by column, among them `n_<column>`; `details`, what else the table's record holds.

    images: one row for each image that counts, with its role, type, prompt, evaluation_seed, suite, shard and row (its
    number in the shard), what it was taken for (`predicted`) and whether that is `right`; None where nothing is.
    """

    cells: dict[str, float | int]
    details: dict[str, Any] = field(default_factory=dict)
    images: pd.DataFrame | None = None
