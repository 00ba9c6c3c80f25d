"""Suites: the rows (type, prompt, evaluation_seed) that are sampled, and how they split into shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pandas as pd

from lethe.files.shards import COLUMNS, OWN_SETTINGS, file_columns, rows_from
from lethe.files.tables import as_read, parse_table, separator_of
from lethe.inputs.templates import fill
from lethe.inputs.words import chosen_words
from lethe.messages import has_control

# What published prompt files call settings of the sampler: rows that have them are worth a look.
_SETTINGS_ELSEWHERE = ("guidance", "guidance_scale", "width", "height", "image_width", "image_height")


def suite_rows(suite: dict) -> pd.DataFrame:
    """The rows of a suite as configured: index `row` from 0, columns type, prompt, evaluation_seed.

    Either `file` (a CSV with these columns, or a TSV by its name; `columns` names others to take them from, and perhaps
    columns guidance, width and height; `rows` keeps the first so many), or every phrase in `column` of `table` (a TSV;
    several phrases in a cell are split at ';'; `words` names the first and the last to take) put into `prompt`, or into
    each of several, once for each seed from `seeds[0]` to `seeds[1]`; the type is the row's `type_column`, else the
    phrase itself.
    Raises ValueError naming the file when a column is missing, there are fewer words, or there are no rows, and file
    and line for what `parse_table` or `rows_from` refuse.
    """
    if "file" in suite:
        rows = _file_rows(Path(suite["file"]), suite.get("columns")).head(suite.get("rows"))
    else:
        first, last = suite["seeds"]
        prompts = [suite["prompt"]] if isinstance(suite["prompt"], str) else suite["prompt"]
        words = phrases(suite["table"], suite["column"], suite.get("type_column"))
        rows = pd.DataFrame(
            [
                (kind, fill(prompt, phrase), seed)
                for kind, phrase in chosen_words(words, suite.get("words"), suite["table"])
                for prompt in prompts
                for seed in range(first, last + 1)
            ],
            columns=COLUMNS,
        )
    if rows.empty:
        column = "" if "file" in suite else f", whose column {suite['column']} is empty"
        raise ValueError(f"suite_rows: the suite has no rows; look at {suite_file(suite)}{column}")
    return rows.rename_axis("row")


def _file_rows(path: Path, columns: dict | None) -> pd.DataFrame:
    """The rows of a file; those without a column of types get an empty one."""
    header, rows = parse_table(path.read_bytes(), path, separator=separator_of(path))
    wanted = file_columns(columns)
    if columns is not None and "type" not in columns and "type" not in header:
        del wanted["type"]
    if missing := [column for column in wanted.values() if column not in header]:
        mend = "`columns` of the suite can name others of its columns"
        need = f"rows need {', '.join(COLUMNS)}; it has {', '.join(filter(None, header))}: {mend}"
        raise ValueError(f"{path}: the column {missing[0]} is missing; {need}")
    table = rows_from(rows, {name: (column, header.index(column)) for name, column in wanted.items()}, path)
    if "type" not in table:
        table["type"] = ""
    return table[[*COLUMNS, *(name for name in OWN_SETTINGS if name in wanted)]]


def without_place(suite: dict) -> dict:
    """What a suite says but where its file is."""
    return {key: value for key, value in suite.items() if key not in ("file", "table", "coco")}


def settings_elsewhere(header: list[str], columns: dict | None) -> list[str]:
    """Columns of a suite's file that look like settings of the sampler and that `columns` does not name."""
    named = set(file_columns(columns).values())
    return [name for name in header if name.lower().removeprefix("sd_") in _SETTINGS_ELSEWHERE and name not in named]


def suite_file(suite: dict) -> Path:
    """The file that a suite's rows come from."""
    return Path(next(suite[form] for form in ("file", "table", "coco") if form in suite))


def phrases(
    table: str | Path, column: str, type_column: str | None = None, *, in_each_row: bool = False
) -> list[tuple[str, str]]:
    """(type, phrase) for every phrase in `column` of a TSV, cells split at ';'; the type is the phrase by default.

    Raises ValueError naming the file when a column is missing, and the line for what `parse_table` refuses, a phrase
    that is there twice with the same type, but for what `as_read` ignores, one without a type, one that holds an
    invisible or control character, and, if there must be a phrase `in_each_row`, for a row without one.
    """
    header, rows = parse_table(Path(table).read_bytes(), table, separator="\t", fill=True, comments=True)
    place = {name: index for index, name in enumerate(header)}
    for name in filter(None, (column, type_column)):
        if name not in place:
            raise ValueError(f"{table}: column {name} is missing; it has {', '.join(place)}")
    found: dict[tuple[str, str], tuple[int, str]] = {}
    pairs = []
    for line, cells in rows:
        words = list(filter(None, map(str.strip, cells[place[column]].split(";"))))
        if in_each_row and not words and any(map(str.strip, cells)):
            raise ValueError(f"{table}, line {line}: {column} is empty; fill it in, or remove the row")
        for phrase in words:
            kind = cells[place[type_column]].strip() if type_column else phrase
            if not kind:
                raise ValueError(f"{table}, line {line}: {type_column} is empty beside {phrase!r}; fill it in")
            if has_control(phrase) or has_control(kind):
                told = f"{phrase!r} or its type holds an invisible or control character"
                raise ValueError(f"{table}, line {line}: {told}; remove it")
            key = as_read(kind), as_read(phrase)
            if key in found:
                first, other = found[key]
                same = "is already" if other == phrase else f"differs in capitals or space alone from {other!r}"
                told = f"{column} {phrase!r} {same} in line {first}"
                raise ValueError(f"{table}, line {line}: {told}; remove one of the two")
            found[key] = line, phrase
            pairs.append((kind, phrase))
    return pairs


def class_names(table: str | Path, column: str) -> list[str]:
    """The classes in `column` of a TSV, in order, each once: of two alike, CLIP would never find the second.

    Raises ValueError for what `phrases` refuses.
    """
    return [phrase for _, phrase in phrases(table, column, in_each_row=True)]


def shard_rows(rows: pd.DataFrame, shard: int, shard_size: int) -> pd.DataFrame:
    """The rows of shard number `shard` (from 0), numbered from 0."""
    return rows.iloc[shard * shard_size : (shard + 1) * shard_size].reset_index(drop=True).rename_axis("row")


def shard_digests(rows: pd.DataFrame, shard_size: int) -> list[str]:
    """SHA-256, 64 hex digits, of the rows of each shard of at most `shard_size`, wherever in the suite they stand.

    Shards of the same rows get different digests all the same, by how many of them went before.
    """
    table = list(rows.itertuples(index=False, name=None))  # as CSV, by pandas, it takes ten times as long
    shards = [json.dumps([list(rows.columns), *table[k : k + shard_size]]) for k in range(0, len(table), shard_size)]
    before: Counter[str] = Counter()
    digests = []
    for shard in shards:
        again = f"\0{before[shard]}" if before[shard] else ""
        digests.append(hashlib.sha256(f"{shard}{again}".encode()).hexdigest())
        before[shard] += 1
    return digests


def fetched_digests(suite: dict, shard_size: int) -> list[str]:
    """What `shard_digests` gives, for a suite whose rows are known only when fetched and that says their number.

    SHA-256, 64 hex digits, for each shard, of what the suite says but where its file is, and the shard's place.
    """
    said, starts = without_place(suite), range(0, suite["rows"], shard_size)
    shards = [json.dumps([said, start, min(shard_size, suite["rows"] - start)], sort_keys=True) for start in starts]
    return [hashlib.sha256(shard.encode()).hexdigest() for shard in shards]
