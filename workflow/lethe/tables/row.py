"""What a table says of one edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Row:
    """Numbers of one edit: `cells` by column, among them `n_<column>`; `details`, what else the table's record holds,
    among it `<column>_interval_95`, the ends of an interval or None.

    images: one row for each image of the roles whose rows count by their type, with its role, type, prompt,
    evaluation_seed, suite, shard and row (its number in the shard). Where images are recognised: what it was taken for
    (`predicted`), whether that is `right` (both missing where there was nothing to recognise, such as no face), and in
    [0, 1] the probability of that and of the type (`probability`, `type_probability`). Where they are scored: `score`.
    None where no number is made of single images.
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
