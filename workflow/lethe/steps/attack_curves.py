"""Draw how fast finetuning brings concepts back: rates against steps, of edits, of the base, and of a new word."""

import pandas as pd

from lethe.pictures.attacks import curves, relearned
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    trials = pd.concat([pd.read_parquet(path) for path in job.reads["rows"]], ignore_index=True)
    found = relearned(trials, settings.edits)
    n = int(found["n"].max()) if len(found) else 0
    told = f"{len(settings.concepts)} concepts, up to {n} images a point, 95 % intervals"
    curves(job.out["figure"], found, title=f"{settings.task}: relearning ({told})")
