"""What a table says of one edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Row:
    """Numbers of one edit: `cells` by column, among them `n_<column>`; `details`, what else the table's record holds,
    among it `<column>_interval_95`, the ends of an interval or None.

    images: one row for each image that counts, with its role, type, prompt, evaluation_seed, suite, shard and row (its
    number in the shard), what it was taken for (`predicted`) and whether that is `right`; None where nothing is.
    beside: further numbers like cells, which the list of all numbers has and the table has not.
    """

    cells: dict[str, float | int]
    details: dict[str, Any] = field(default_factory=dict)
    images: pd.DataFrame | None = None
    beside: dict[str, float | int] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float | int]:
        """Cells and what is beside them."""
        return self.cells | self.beside
