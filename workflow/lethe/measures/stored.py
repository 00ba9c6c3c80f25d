"""A shard's measure as a table: its rows, with what was measured of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.files.whole import written_whole


def write_measure(path: Path, rows: pd.DataFrame, **columns: np.ndarray | list) -> None:
    """Write rows and columns as Parquet: an array `[n, d]` as lists of float32, a list of n values as it is.

    Values may be one-dimensional arrays of any length; their dtype is that of the column, even where all are empty.
    Raises ValueError when a column has not one value per row.
    """
    kept = {
        name: values if isinstance(values, list) else list(np.asarray(values, np.float32))
        for name, values in columns.items()
    }
    table = rows.assign(**kept)
    with written_whole(path) as part:
        table.to_parquet(part)


def read_measures(paths: Sequence[Path]) -> pd.DataFrame:
    """The measures of several shards, one below the other."""
    return pd.concat([pd.read_parquet(path) for path in paths])


def as_array(column: pd.Series) -> np.ndarray:
    """A list column as an array `[n, d]`; `[0, 0]` when there is no row."""
    return np.stack(column.to_list()) if len(column) else np.zeros((0, 0), np.float32)
