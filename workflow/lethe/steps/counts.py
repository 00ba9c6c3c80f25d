"""Draw a table's accuracies against the number of concepts that were erased, a line for each method."""

import json
import math

import pandas as pd

from lethe.pictures.figures import lines_by_count
from lethe.steps.job import Job


def run(job: Job) -> None:
    table = pd.read_csv(job.read("table"), index_col=0)
    details = json.loads(job.read("record").read_text(encoding="utf-8"))["details"]
    shown = [column for column in ("acc_e", "acc_g", "acc_s", "h_o", "h_c") if column in table]
    rows = []
    for task, count in job.settings.erased:
        of_task = [name for name in table.index if name.startswith(f"{task}/")] or list(table.index)
        for name in of_task:
            for column in shown:
                low, high = details[name][f"{column}_interval_95"] or (math.nan, math.nan)  # of no image that counts
                rows.append((name.rpartition("/")[2], column, count, table.at[name, column], low, high))
    found = pd.DataFrame(rows, columns=["method", "number", "concepts", "value", "low", "high"])
    lines_by_count(job.out["figure"], found, title=f"{job.settings.name}: percent by concepts erased, 95 % intervals")
