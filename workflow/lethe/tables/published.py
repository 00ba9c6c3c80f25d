"""Published tables: which of their numbers are by which protocols, and our own beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lethe.files.tables import parse_table
from lethe.messages import nearest, shown
from lethe.tables.known import apart, known, name_of

CASES = ("concept", "count")  # what tells rows of a method apart: the concept that is erased, or how many are
COLUMNS = ["method", "case", "number", "published", "ours", "low_95", "high_95", "n", "difference", "protocol", "note"]
KEYS = {"source", "file", "rows", "numbers", "average", "filled_by"}  # of a table

NEEDED = {"number", "protocol"}  # of a number


@dataclass(frozen=True)
class Published:
    """A published table: the file of its values, and all else that its set says of it."""

    file: str
    said: Mapping[str, Any]


def read_published(path: str | Path, table: str) -> Published:
    """A table of a set, a YAML file whose form that of `resources/published` tells.

    Raises ValueError, naming the file, when it is no such set or has no such table.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        tables = content["tables"]
        names = list(tables)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: this is no set of published tables ({type(error).__name__})") from None
    if table not in names:
        close = nearest(table, names)
        hint = f"; did you mean {close}?" if close else "."
        raise ValueError(f"{path}: it has no table {shown(table)}{hint} Its tables: {', '.join(map(str, names))}")
    said = tables[table]
    if problem := _problem(said):
        raise ValueError(f"{path}: tables.{table} {problem}")
    return Published(str(Path(path).parent / said["file"]), {key: said[key] for key in said if key != "file"})


def _problem(said: Any) -> str:
    """What is wrong with what a set says of a table; empty for nothing."""
    if not isinstance(said, dict) or not KEYS - {"average", "filled_by"} <= said.keys() <= KEYS:
        return (
            f"must have the keys source, file, rows and numbers, and may have average and filled_by; got {shown(said)}"
        )
    rows, numbers = said["rows"], said["numbers"]
    if not isinstance(said["file"], str):
        return f"must name in file a CSV file beside the set; got {shown(said['file'])}"
    if not isinstance(rows, dict) or "method" not in rows or len(rows) > 2 or rows.keys() - {"method", *CASES}:
        return f"must name in rows the column of its methods, and at most one of {' and '.join(CASES)}"
    if not isinstance(numbers, dict) or not all(map(_is_number, numbers.values())):
        return "must say of each of its numbers the number and the protocol of ours that is the same"
    if not all(isinstance(said.get(key, {}), dict) for key in ("average", "filled_by")):
        return "must give average and filled_by as cases with what each is: a number of cases, a target"
    for column, of in numbers.items():
        if of["protocol"] is None and not of.get("because"):
            return f"says of {column} that its protocol is not known; it must say because of what"
        if of["protocol"] is not None and name_of(of["protocol"]) not in known():
            hint = f"; did you mean {close}?" if (close := nearest(name_of(of["protocol"]), known())) else ""
            return f"gives {column} the unknown protocol {shown(of['protocol'])}{hint}"
    return ""


def _is_number(of: Any) -> bool:
    """Whether this says of a published number which of ours is the same."""
    if not isinstance(of, dict) or not NEEDED <= of.keys() <= NEEDED | {"because", "times"}:
        return False
    return isinstance(of["protocol"], str | None) and isinstance(of.get("times", 1), int | float)


def read_values(path: str | Path, said: Mapping[str, Any]) -> pd.DataFrame:
    """The values of a published table: columns method, case (empty where there is none), number and value.

    An empty cell is NaN: nobody published it. Raises ValueError, naming the file, for a column that is not there, a
    cell that is no number, and a row that is there twice; as `parse_table` does.
    """
    header, lines = parse_table(Path(path).read_bytes(), path, separator=",")
    if lacking := [name for name in (*said["rows"].values(), *said["numbers"]) if name not in header]:
        raise ValueError(f"{path}: there is no column {shown(lacking[0])}; its columns are {', '.join(header)}")
    found: dict[tuple[str, str, str], float] = {}
    by_case = next((column for key, column in said["rows"].items() if key != "method"), None)
    for line, cells in lines:
        row = dict(zip(header, cells, strict=True))
        method, case = row[said["rows"]["method"]], row[by_case] if by_case else ""
        if any((method, case, number) in found for number in said["numbers"]):
            raise ValueError(f"{path}, line {line}: {method} {case} is there twice; remove one".replace("  ", " "))
        for number, of in said["numbers"].items():
            try:
                value = float(row[number]) if row[number].strip() else None
            except ValueError:
                value = math.nan
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{path}, line {line}: {number} is no number, but {shown(row[number])}")
            found[method, case, number] = math.nan if value is None else value * of.get("times", 1)
    table = [(*key, value) for key, value in found.items()]
    return pd.DataFrame(table, columns=["method", "case", "number", "value"])


def cases_of(said: Mapping[str, Any], tasks: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """The task of each case, from the tasks and their concepts.

    Raises ValueError when two tasks are the same case, or a task of several concepts is asked which one it is.
    """
    found: dict[str, str] = {}
    for task, concepts in tasks:
        case = ""
        if "count" in said["rows"]:
            case = str(len(concepts))
        elif "concept" in said["rows"]:
            if len(concepts) != 1:
                raise ValueError(
                    f"the published table has a row for one concept, and task {task} erases {len(concepts)}"
                )
            (case,) = concepts
        if case in found:
            told = f"tasks {found[case]} and {task} are the same row of the published table"
            raise ValueError(f"{told}; leave one out, or name another table")
        found[case] = task
    return found


def beside(
    published: pd.DataFrame,
    numbers: pd.DataFrame,
    said: Mapping[str, Any],
    *,
    name: str,
    methods: Mapping[str, str],
    tasks: Sequence[tuple[str, Sequence[str]]],
) -> pd.DataFrame:
    """Published values and ours (`numbers`, as the step of tables lists them), with `COLUMNS`.

    Ours stands in its column only where both are by one protocol; `note` says why it does not, or which target fills
    the cell. Values of others are never copied into it. `name` is the table's, `methods` says what the published one
    calls ours, `tasks` are those of the table with their concepts.
    """
    cases = cases_of(said, tasks)
    called = {methods.get(method, method): method for method in dict.fromkeys(numbers["method"])}
    ours = {(row.task, row.method, row.number): row for row in numbers.itertuples()}
    theirs = {(row.method, row.case, row.number): row.value for row in published.itertuples()}
    rows = list(dict.fromkeys((method, case) for method, case, _ in theirs))
    rows += [(method, case) for method in called for case in cases if (method, case) not in rows]
    lines = []
    for method, case in rows:
        for number, of in said["numbers"].items():
            value = theirs.get((method, case, number), math.nan)
            found, note = _ours(ours, called.get(method), case, of, said, cases, name)
            if math.isnan(value):
                note = note or "not published"
            line = dict(method=method, case=case, number=number, published=value, protocol=of["protocol"] or "")
            lines.append(line | found | dict(difference=found.get("ours", math.nan) - value, note=note))
    return pd.DataFrame(lines, columns=COLUMNS).astype({"n": "Int64"})


def _ours(
    ours: Mapping[tuple[str, str, str], Any],
    method: str | None,
    case: str,
    of: Mapping[str, Any],
    said: Mapping[str, Any],
    cases: Mapping[str, str],
    name: str,
) -> tuple[dict[str, Any], str]:
    """Our value of a cell with its interval and n, where one is by the same protocol, and a note where none is."""
    average, target = said.get("average", {}).get(case), said.get("filled_by", {}).get(case, name)
    if method is None:
        mend = f"with a method that tables.{name}.published.methods calls so, the target {target} fills this cell"
        return {}, f"nobody ran it here; {mend}"
    if average is None and case not in cases:
        told = target if target != name else f"{name}, with a task for it,"
        return {}, f"nobody ran it here; the target {told} fills this cell"
    chosen = list(cases.values()) if average else [cases[case]]
    rows = [ours.get((task, method, of["number"])) for task in chosen]
    rows = [row for row in rows if row is not None]
    if not rows:
        return {}, f"results/tables/{name}.numbers.csv has no {of['number']}: the evaluation does not measure it"
    if of["protocol"] is None:
        return {}, f"not compared, as the protocol of the published value is not known: {of['because']}"
    if not rows[0].protocol:
        return {}, f"not compared, as our {of['number']} names no protocol"
    if problem := apart(rows[0].protocol, of["protocol"]):
        return {}, f"not compared: {problem}"
    if average and len(rows) != average:
        return {}, f"the mean is over {average}, and {len(rows)} were run; the target {name} with all of them fills it"
    if average:
        n = sum(row.n for row in rows) if all(pd.notna(row.n) for row in rows) else None
        return dict(ours=sum(row.value for row in rows) / average, n=n), f"mean of the {average}; no interval"
    (row,) = rows
    if pd.isna(row.value):
        return dict(n=row.n), "none of our images counts"
    return dict(ours=row.value, low_95=row.low_95, high_95=row.high_95, n=row.n), ""
