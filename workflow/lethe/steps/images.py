"""Generate training images of a concept, or of its anchor, with the base."""

import pandas as pd

from lethe.bases.sampling import sample_rows
from lethe.files.shards import write_shard
from lethe.inputs.templates import fill
from lethe.steps.job import Job
from lethe.steps.loading import pipeline_of

LESS_MEMORY = "images.batch"


def run(job: Job) -> None:
    name, images, first = job.settings.concept, job.settings.images, job.settings.seed
    seeds = range(first, first + images["count"])
    rows = pd.DataFrame({"type": name, "prompt": fill(images["prompt"], name), "evaluation_seed": seeds})
    pipeline = pipeline_of(job, scheduler=images["scheduler"])
    sampled = sample_rows(pipeline, rows, steps=images["steps"], guidance=images["guidance"], batch=images["batch"])
    write_shard(job.out["images"], rows, sampled)
