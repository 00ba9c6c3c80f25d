"""Write the rows of a suite as a table: those of its file or of its words, or drawn from COCO's captions."""

import csv
from pathlib import Path

from lethe.files.whole import written_whole
from lethe.inputs.coco import coco_rows
from lethe.inputs.suites import suite_file, suite_rows
from lethe.steps.job import Job


def run(job: Job) -> None:
    suite, wanted = job.settings.rows, job.settings.count
    if "coco" in suite:
        rows = coco_rows(Path(suite["coco"]), rows=suite["rows"], seed=suite["seed"])
    else:
        rows = suite_rows(suite)
    if wanted is not None and len(rows) != wanted:
        raise ValueError(f"{suite_file(suite)}: it has {len(rows)} rows, and the suite asks for {wanted} (rows)")
    with written_whole(job.out["rows"]) as part:
        rows.to_csv(part, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
