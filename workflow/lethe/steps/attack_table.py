"""Join the trials of every probe and edit, by what stands in them, into a table with its controls."""

import importlib

import pandas as pd

from lethe.plugins import manifest
from lethe.records.code import commit
from lethe.steps.job import Job
from lethe.steps.table import write_csv


def run(job: Job) -> None:
    trials = pd.concat([pd.read_parquet(path).reset_index() for path in job.reads["rows"]], ignore_index=True)
    table = importlib.import_module(manifest("tables", job.settings.kind).module)
    lines, concepts = [], []
    for task, told in job.settings.tasks:
        mine = trials[trials["evaluation"] == told["evaluation"]]
        lines += [{"task": task} | line for line in table.rows(mine, told)]
        concepts += [{"task": task} | line for line in table.by_concept(mine, told)]
    write_csv(job.out["table"], pd.DataFrame(lines).reindex(columns=table.COLUMNS))
    write_csv(job.out["concepts"], pd.DataFrame(concepts).reindex(columns=table.BY_CONCEPT))
    job.write_json("record", job.record(commit=commit()))
