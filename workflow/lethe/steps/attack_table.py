"""Join the trials of every probe and edit, by what stands in them, into a table with its controls."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lethe.files.shards import read_images
from lethe.plugins import manifest
from lethe.records.code import commit
from lethe.records.records import name_of
from lethe.steps.job import Job
from lethe.steps.table import write_csv
from lethe.tables import side_effects


def run(job: Job) -> None:
    parts = {name_of(path): pd.read_parquet(path).reset_index() for path in job.reads["rows"]}
    trials = pd.concat(parts.values(), ignore_index=True)
    table = importlib.import_module(manifest("tables", job.settings.kind).module)
    lines, concepts, sources, details = [], [], {}, {}
    for task, told in job.settings.tasks:
        mine = trials[trials["evaluation"] == told["evaluation"]]
        found = [{"task": task} | line for line in table.rows(mine, told)]
        lines += found
        concepts += [{"task": task} | line for line in table.by_concept(mine, told)]
        for line in found:
            name = "/".join(line[key] for key in table.NAMED_BY)
            sources[name] = behind(parts, line, told, table)
            details[name] = detailed(line, table)
    effects = effects_of(job)
    others = [name_of(path) for name in ("effects", "effects_images") for path in job.reads.get(name, [])]
    job.recorded["cells"] = {"columns": table.SOURCES, "rows": sources, "every_row": {"side effects": others}}
    protocols = {", ".join(table.RATES): lines[0]["protocol"]} if lines else {}
    about = dict(named_by=table.NAMED_BY, details=details, protocols=protocols)
    write_csv(job.out["table"], pd.DataFrame(lines).reindex(columns=table.COLUMNS))
    write_csv(job.out["concepts"], pd.DataFrame(concepts).reindex(columns=table.BY_CONCEPT))
    write_csv(job.out["effects"], pd.DataFrame(effects).reindex(columns=side_effects.COLUMNS))
    job.write_json("record", job.record(commit=commit(), **about))


def effects_of(job: Job) -> list[dict[str, Any]]:
    """The rows of side effects of each task, where some probe looked for them."""
    parts = zip(job.reads.get("effects", []), job.reads.get("effects_images", []), strict=True)
    tables = [pd.read_parquet(path).reset_index().assign(shard=str(shard)) for path, shard in parts]
    if not tables:
        return []
    trials = pd.concat(tables, ignore_index=True)
    found = []
    for task, told in job.settings.tasks:
        mine = trials[trials["evaluation"] == told["evaluation"]]
        found += [{"task": task} | line for line in side_effects.rows(mine, told, images_of)]
    return found


def images_of(rows: pd.DataFrame) -> list[np.ndarray]:
    """The images of trials, each from the archive of its probe."""
    found: dict[int, np.ndarray] = {}
    for shard, part in rows.groupby("shard", sort=False):
        found |= dict(zip(part.index, read_images(Path(shard), part["row"].tolist()), strict=True))
    return [found[place] for place in rows.index]


def behind(parts: dict[str, pd.DataFrame], line: dict[str, Any], told: dict[str, Any], table: Any) -> dict[str, list]:
    """The files behind a row of a task, by what they tell of it."""
    edit, found = dict(told["edits"])[line["edit"]], {}
    for path, part in parts.items():
        first = part.iloc[0] if len(part) else None
        if first is None or any(first[key] != told[key] for key in ("base", "evaluation")):
            continue
        if first["probe"] == line["probe"]:
            for source in table.source(first, told, edit):
                found.setdefault(source, []).append(path)
    return found


def detailed(line: dict[str, Any], table: Any) -> dict[str, Any]:
    """The n of a row's rates, and the interval of the first of them."""
    counts = {f"n_{rate}": line.get(n) for rate, n in table.RATES.items()}
    return counts | {"rate_interval_95": None if line["low_95"] is None else [line["low_95"], line["high_95"]]}
