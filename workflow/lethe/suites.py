"""Suites: the rows (type, prompt, evaluation_seed) that are sampled, and how they split into shards."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pandas as pd

from lethe.files import COLUMNS, read_row_table
from lethe.prompts import fill
from lethe.text_files import parse_table


def suite_rows(suite: dict) -> pd.DataFrame:
    """The rows of a suite as configured: index `row` from 0, columns type, prompt, evaluation_seed.

    Either `file` (a CSV with these columns; `rows` keeps the first so many), or every phrase in `column` of `table`
    (a TSV; several phrases in a cell are split at ';') put into `prompt`, once for each seed from `seeds[0]` to
    `seeds[1]`; the type is the row's `type_column`, else the phrase itself.
    Raises ValueError naming the file when a column is missing or there are no rows.
    """
    if "file" in suite:
        rows = read_row_table(Path(suite["file"])).head(suite.get("rows"))[COLUMNS].reset_index(drop=True)
    else:
        first, last = suite["seeds"]
        rows = pd.DataFrame(
            [
                (kind, fill(suite["prompt"], phrase), seed)
                for kind, phrase in phrases(suite["table"], suite["column"], suite.get("type_column"))
                for seed in range(first, last + 1)
            ],
            columns=COLUMNS,
        )
    if rows.empty:
        raise ValueError(f"suite_rows: the suite has no rows; look at {suite_file(suite)}")
    return rows.rename_axis("row")


def suite_file(suite: dict) -> Path:
    """The file that a suite's rows come from."""
    return Path(suite["file"] if "file" in suite else suite["table"])


def phrases(table: str | Path, column: str, type_column: str | None = None) -> list[tuple[str, str]]:
    """(type, phrase) for every phrase in `column` of a TSV, cells split at ';'; the type is the phrase by default.

    Raises ValueError naming the file when a column is missing, and the line for what `parse_table` refuses.
    """
    header, rows = parse_table(Path(table).read_bytes(), table, separator="\t", fill=True, comments=True)
    place = {name.strip(): index for index, name in enumerate(header)}
    for name in filter(None, (column, type_column)):
        if name not in place:
            raise ValueError(f"{table}: column {name} is missing; it has {', '.join(place)}")
    return [
        (cells[place[type_column]].strip() if type_column else phrase, phrase)
        for _, cells in rows
        for phrase in (part.strip() for part in cells[place[column]].split(";"))
        if phrase
    ]


def shard_count(rows: int, shard_size: int) -> int:
    """Number of shards of at most `shard_size` rows."""
    return math.ceil(rows / shard_size)


def shard_rows(rows: pd.DataFrame, shard: int, shard_size: int) -> pd.DataFrame:
    """The rows of shard number `shard` (from 0), keeping their numbers."""
    return rows.iloc[shard * shard_size : (shard + 1) * shard_size]


def shard_digests(rows: pd.DataFrame, shard_size: int) -> list[str]:
    """SHA-256, 64 hex digits, of the rows of each shard and their numbers."""
    table = list(rows.itertuples(name=None))  # as CSV, by pandas, it takes ten times as long
    shards = (table[first : first + shard_size] for first in range(0, len(table), shard_size))
    return [hashlib.sha256(json.dumps([list(rows.columns), *shard]).encode()).hexdigest() for shard in shards]
