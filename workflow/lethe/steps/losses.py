"""Draw the losses of what a method trains for each concept of a task."""

import pandas as pd

from lethe.pictures.figures import loss_curves
from lethe.steps.job import Job


def run(job: Job) -> None:
    named = zip(job.settings.concepts, job.reads["curves"], strict=True)
    curves = {name: pd.read_csv(path, index_col="step")["loss"] for name, path in named}
    loss_curves(job.out["figure"], curves, title=f"Training, {len(curves)} concepts, running mean of 10 steps")
