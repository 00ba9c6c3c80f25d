"""A measure as it is stored: a shard's rows with what was measured of each, and what the shard is of, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.files.whole import written_whole


def write_measure(path: Path, rows: pd.DataFrame, columns: Mapping[str, Sequence], about: Mapping[str, str]) -> None:
    """Write rows, a column of each measured thing and one of each thing that they are `about`, as Parquet.

    Raises ValueError as `with_columns`.
    """
    table = with_columns(rows.assign(**about), columns)
    with written_whole(path) as part:
        table.to_parquet(part)


def with_columns(rows: pd.DataFrame, columns: Mapping[str, Sequence]) -> pd.DataFrame:
    """Rows with a column of each measured thing; an array `[n, d]` becomes one of lists, float32.

    Raises ValueError when a column has another length.
    """
    table = rows.copy()
    for name, values in columns.items():
        if len(values) != len(rows):
            raise ValueError(f"a measure must have one value per row; got {len(values)} of {name} for {len(rows)} rows")
        table[name] = list(np.asarray(values, np.float32)) if isinstance(values, np.ndarray) else list(values)
    return table


def read_measures(paths: Sequence[Path]) -> pd.DataFrame:
    """Several measures, one below the other, with their rows as a column."""
    return pd.concat([pd.read_parquet(path).reset_index() for path in paths], ignore_index=True)


def as_array(column: pd.Series) -> np.ndarray:
    """A list column as an array `[n, d]`; `[0, 0]` when there is no row."""
    return np.stack(column.to_list()) if len(column) else np.zeros((0, 0), np.float32)
