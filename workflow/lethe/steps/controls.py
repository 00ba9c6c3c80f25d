"""Draw images that cannot show what is erased, and set the thresholds from which judges' words count."""

import numpy as np
import pandas as pd

from lethe.attacks.controls import GHOSTS, OTHERS, RANDOM, random_weights, thresholds
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.files.whole import written_whole
from lethe.inputs.templates import fill
from lethe.steps.edit import base_of
from lethe.steps.job import Job
from lethe.steps.judging import judges_of, workspace_of

LESS_MEMORY = "sampling.batch"


def run(job: Job) -> None:
    settings, base = job.settings, base_of(job)
    chooser, reporter = judges_of(job)
    space = workspace_of(job, chooser, reporter)
    asked = sorts_of(settings.controls, space, reporter.classes, settings.class_prompt, settings.ghosts)
    parts = []
    for sort, rows in asked.items():
        parts.append(rows.assign(sort=sort, images=drawn(base, space, rows, sort, settings.seed)))
    images = pd.concat(parts, ignore_index=True)
    pictures = list(images.pop("images"))
    table = images.assign(chooser=list(chooser.tell(pictures)), reporter=list(reporter.tell(pictures)))
    told = {"share": settings.controls["share"], "least": settings.controls["least"], "n": table["sort"].value_counts()}
    told["n"] = {sort: int(count) for sort, count in told["n"].items()}
    targets = [name for name in reporter.classes if chooser.knows(name)]
    for name, judge in (("chooser", chooser), ("reporter", reporter)):
        limits = {key: settings.controls[key] for key in ("share", "least")}
        told[name] = thresholds(table, judge, name, targets, **limits)
    with written_whole(job.out["images"]) as part:
        table.assign(base=settings.base["name"], evaluation=settings.evaluation).to_parquet(part)
    job.write_json("thresholds", told)


def sorts_of(
    controls: dict, space: Workspace, classes: tuple[str, ...], class_prompt: str, ghosts: list[str]
) -> dict[str, pd.DataFrame]:
    """What is asked for, of each sort of controls: subject, prompt and seed."""
    seeds = range(controls["first_seed"], controls["first_seed"] + controls["images"])
    others = [name for name in classes if name not in ghosts]
    found = {}
    for sort, names in ((OTHERS, others), (GHOSTS, ghosts), (RANDOM, others)):
        if names:
            chosen = [names[k % len(names)] for k in range(len(seeds))]
            template = space.prompt if sort == GHOSTS else class_prompt
            prompts = [fill(template, name) for name in chosen]
            found[sort] = pd.DataFrame({"subject": chosen, "prompt": prompts, "seed": list(seeds)})
    return found


def drawn(base: Base, space: Workspace, rows: pd.DataFrame, sort: str, seed: int) -> list[np.ndarray]:
    with space.pipeline_of(base, None) as pipeline:
        if sort != RANDOM:
            return space.draw(pipeline, rows["prompt"], rows["seed"])
        with random_weights(pipeline.unet, seed):
            return space.draw(pipeline, rows["prompt"], rows["seed"])
