"""The chain of jobs behind a file or a table's cell, from the records of a results folder."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lethe.messages import plain
from lethe.records.records import Place, hash_of, place, read_record

# What differs between the jobs of one rule for many concepts or shards; jobs that differ in more are told apart.
_OF_ONE_JOB = ("concept", "anchor", "shard", "digest", "suite.rows")
_MOST = 6  # things in a line, lines of a kind


@dataclass(frozen=True)
class Job:
    """A record, and the jobs that made what it read: their positions in the chain by the path that was read."""

    record: dict
    made_by: dict[str, int]

    @property
    def given(self) -> dict[str, str]:
        """SHA-256 of the files that it read and no record is about, by path."""
        return {path: digest for path, digest in self.record["inputs"].items() if path not in self.made_by}


@dataclass
class Trace:
    """What made a file: its jobs, the last one first, every job before those whose outputs it read.

    cells: value, n, interval and protocol of each chosen cell of a table.  warnings: where the chain does not hold.
    """

    name: str
    cells: list[dict] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict:
        """Everything, with whole records."""
        jobs = [job.record for job in self.jobs]
        return {"file": self.name, "cells": self.cells, "warnings": self.warnings, "jobs": jobs}


def trace(path: Path, row: str | None = None, column: str | None = None) -> Trace:
    """The chain of jobs that made a file below a results folder, or the cells of a CSV in one row, column or both.

    A table's record tells which of its inputs feed which cells; the chain leaves the others out.
    Raises ValueError when there is no record of the file, or no such row or column in it.
    """
    found = place(path)
    if found is None:
        raise ValueError(f"{path}: it lies in no folder called results; records are about files in one")
    if not found.record.is_file():
        what = "there is no record of what made it" if Path(path).exists() else "there is no such file"
        raise ValueError(f"{path}: {what} (it would be {found.record})")
    record = read_record(found.record)
    told = Trace(found.name)
    inputs = list(record["inputs"])
    if row is not None or column is not None:
        told.cells = cells_of(Path(path), row, column)
        if "cells" in record:
            inputs = _feeding(record, row, column)
    if Path(path).exists() and hash_of(path) != record["outputs"].get(found.name):
        told.warnings.append(f"{found.name} is not what its record says: it was damaged or replaced")
    told.jobs = _chain(found, record, inputs, told.warnings)
    return told


def cells_of(path: Path, row: str | None, column: str | None) -> list[dict]:
    """The chosen cells of a CSV, with what the JSON file beside it says of them.

    Its first column names its rows, or several together, with '/' between, where the JSON file says so (`named_by`).
    """
    if path.suffix != ".csv":
        raise ValueError(f"{path}: only tables (*.csv) have rows and columns")
    with path.open(encoding="utf-8", newline="") as file:
        names, *lines = list(csv.reader(file)) or [[]]
    about = _about(path)
    keys = about.get("named_by", names[:1])
    rows = [dict(zip(names, line, strict=False)) for line in lines if line]
    table = {"/".join(found[key] for key in keys): found for found in rows}
    if row is not None and row not in table:
        raise ValueError(f"{path}: there is no row {row!r}; its rows are {', '.join(table)}")
    names = [name for name in names if name not in keys]
    if column is not None and column not in names:
        raise ValueError(f"{path}: there is no column {column!r}; its columns are {', '.join(names)}")
    protocols = {key: text for keys, text in about.get("protocols", {}).items() for key in keys.split(", ")}
    details = about.get("details", {})
    columns = [name for name in names if name == column or (column is None and not name.startswith("n_"))]
    return [
        {
            "row": name,
            "column": key,
            "value": table[name][key],
            "n": table[name].get(f"n_{key}", details.get(name, {}).get(f"n_{key}")),
            "interval_95": details.get(name, {}).get(f"{key}_interval_95"),
            "protocol": protocols.get(key),
            "parts": about.get("parts", {}).get(name, {}).get(key),
        }
        for name in table
        if row in (None, name)
        for key in columns
    ]


def _about(table: Path) -> dict:
    """The JSON file beside a table; empty without one."""
    try:
        return json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _feeding(record: dict, row: str | None, column: str | None) -> list[str]:
    """The inputs of a table that the cells of a row and column come from, and those that its record says nothing of."""
    cells = record["cells"]
    parts = None if column is None else cells["columns"].get(column, ())
    sources = [(None, cells["every_row"]), *cells["rows"].items()]
    told = {path for _, kinds in sources for paths in kinds.values() for path in paths}
    wanted = {
        path
        for name, kinds in sources
        if name is None or row in (None, name)
        for kind, paths in kinds.items()
        if parts is None or kind in parts
        for path in paths
    }
    return [path for path in record["inputs"] if path in wanted or path not in told]


def _chain(found: Place, last: dict, inputs: Sequence[str], warnings: list[str]) -> list[Job]:
    """The jobs before `last`, of which only some inputs count, found by the paths that they read and wrote."""
    last = last | {"inputs": {path: last["inputs"][path] for path in inputs}}
    records, position = [last], dict.fromkeys(last["outputs"], 0)
    for reader in records:  # grows while it is read
        for path, digest in reader["inputs"].items():
            source = place(found.results.parent / path) if path.startswith("results/") else None
            if source is None:
                continue
            if path not in position:
                if not source.record.is_file():
                    continue
                made = read_record(source.record)
                first = next((position[name] for name in made["outputs"] if name in position), len(records))
                position |= dict.fromkeys(made["outputs"], first)
                if first == len(records):
                    records.append(made)
            expected = records[position[path]]["outputs"].get(path)
            if expected != digest:
                told = f"{min(reader['outputs'])} was made from another version of {path} than there is a record of"
                warnings.append(f"{told} ({digest[:12]}, now {str(expected)[:12]})")
    order = _sorted(records, position)
    new = {old: k for k, old in enumerate(order)}
    return [
        Job(records[old], {path: new[position[path]] for path in records[old]["inputs"] if path in position})
        for old in order
    ]


def _sorted(records: Sequence[dict], position: Mapping[str, int]) -> list[int]:
    """Positions of records, every one before those whose outputs it read."""
    steps = [0] * len(records)  # the longest way from the last job
    waiting = [0]
    while waiting:
        reader = waiting.pop()
        for source in {position[path] for path in records[reader]["inputs"] if path in position}:
            if steps[source] <= steps[reader] < len(records):  # records that read each other would go on for ever
                steps[source] = steps[reader] + 1
                waiting.append(source)
    return sorted(range(len(records)), key=steps.__getitem__)


def lines(told: Trace) -> Iterator[str]:
    """A trace as lines of text; equal jobs of many concepts or shards are one paragraph."""
    for cell in told.cells:
        n = f", n = {cell['n']}" if cell["n"] else ""
        interval = cell["interval_95"]
        between = f", 95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
        yield f"{told.name}, row {cell['row']}, column {cell['column']}: {cell['value']}{n}{between}"
        if cell["protocol"]:
            yield f"protocol: {cell['protocol']}"
        if cell["parts"]:
            yield f"made of: {', '.join(f'{name} {value}' for name, value in cell['parts'].items())}"
    if not told.cells:
        yield told.name
    yield from (f"warning: {warning}" for warning in told.warnings)
    for group in _groups(told.jobs):
        yield ""
        yield from _group_lines(group, told.jobs)
    yield ""
    yield from _common_lines([job.record for job in told.jobs])


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that differ only in their concept or shard, together, whatever differs likewise in what they read."""
    keys: dict[int, tuple] = {}
    numbers: dict[tuple, int] = {}
    for k in reversed(range(len(jobs))):  # from what was made first
        record = jobs[k].record
        settings = {
            key: value
            for key, value in _flat(record["settings"]).items()
            if not any(key == name or key.startswith(f"{name}.") for name in _OF_ONE_JOB)
        }
        sources = frozenset(numbers[keys[source]] for source in jobs[k].made_by.values() if source in keys)
        keys[k] = (record["step"], json.dumps(settings, sort_keys=True), sources)
        numbers.setdefault(keys[k], len(numbers))
    groups: dict[tuple, list[Job]] = {}
    for k, job in enumerate(jobs):
        groups.setdefault(keys[k], []).append(job)
    return list(groups.values())


def _group_lines(group: Sequence[Job], jobs: Sequence[Job]) -> Iterator[str]:
    records = [job.record for job in group]
    runs = [record["run"] for record in records]
    seconds = sum(run.get("seconds", 0) for run in runs)
    hosts = sorted({str(run.get("host")) for run in runs})
    gpus = sorted({run.get("gpu") or "no GPU" for run in runs})
    started = min(str(run.get("started")) for run in runs)
    count = f"{len(group)} jobs" if len(group) > 1 else "1 job"
    yield f"{records[0]['step']}: {count}, {seconds:.1f} s, {_few(hosts)}, {_few(gpus)}, from {started}"
    made = sorted({path for record in records for path in record["outputs"]})
    yield from _wrapped("  made", _few(made, most=2))
    settings = [_flat({k: v for k, v in record["settings"].items() if k != "base"}) for record in records]
    if told := _settings(settings):
        yield from _wrapped("  settings", told)
    read: dict[str, set[str]] = {}
    for job in group:
        for path, source in job.made_by.items():
            read.setdefault(jobs[source].record["step"], set()).add(path)
    for step, paths in read.items():
        yield from _wrapped("  from", f"{step}: {_few(sorted(paths), most=2)}")
    given = sorted({(path, digest) for job in group for path, digest in job.given.items()})
    for path, digest in given[:_MOST]:
        yield from _wrapped("  given", f"{path}, SHA-256 {digest[:12]}")
    if len(given) > _MOST:
        yield from _wrapped("  given", f"{len(given) - _MOST} more; --json has them all")


def _common_lines(records: Sequence[dict]) -> Iterator[str]:
    """What all jobs share: bases, versions, commits."""
    named = [_flat(base) for record in records if isinstance(base := record["settings"].get("base"), dict)]
    bases = list({json.dumps(base, sort_keys=True): base for base in named}.values())
    for base in bases:
        if not any(base.items() < other.items() for other in bases):  # a prior knows but some of it
            yield from _wrapped("base", _settings([base]))
    yield from _wrapped("versions", _settings([_flat(record["environment"]) for record in records]))
    yield from _wrapped("commit", _few(sorted({str(record["run"].get("commit")) for record in records})))


def _wrapped(label: str, text: str) -> list[str]:
    """A label and its text on lines of 100 characters; a long path has a line to itself."""
    start, indent = f"{label:10}  ", " " * 12
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(plain(text), 100, initial_indent=start, subsequent_indent=indent, **options)


def _settings(flat: Sequence[Mapping[str, object]]) -> str:
    """Settings of several jobs as `a.b 1, a.c 2`, each with all the values it has."""
    keys = dict.fromkeys(key for settings in flat for key in settings)
    values = {key: [settings[key] for settings in flat if key in settings] for key in keys}
    return ", ".join(f"{key} {_few(dict.fromkeys(map(_text, values[key])))}" for key in keys)


def _flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested settings by keys such as `a.b`."""
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def _few(values: Iterable[object], most: int = _MOST) -> str:
    """Values with commas between them; the first, the last and their number if there are too many."""
    texts = [str(value) for value in values]
    if len(texts) <= most:
        return ", ".join(texts)
    return f"{texts[0]} ... {texts[-1]} ({len(texts)} in all)"
