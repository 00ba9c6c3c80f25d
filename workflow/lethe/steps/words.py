"""Draw every word of a vocabulary as a probe wants it, by an edit or what stands in for one, for all concepts."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lethe.attacks.workspace import Drawing, DrawnWords
from lethe.edits.edit import Edit
from lethe.files.shards import write_shard
from lethe.plugins import manifest
from lethe.steps.job import Job
from lethe.steps.probe import attacked_base, standing_in

LESS_MEMORY = "sampling.batch"


def run(job: Job) -> None:
    settings, base = job.settings, attacked_base(job)
    module = importlib.import_module(manifest("probes", settings.kind).module)
    drawing, seed = Drawing(settings.sampling), settings.search[0]
    with standing_in(base, settings.about["edit"], settings.seed):
        edit = next((Edit.load(path) for path in job.reads["edit"]), None)
        drawn = module.words(base, edit, settings.probe, drawing, seed=settings.seed, image_seed=seed)
    job.recorded["spent"] = vars(drawing.meter.spent)
    write_words(job.out["images"], drawn, drawing, seed, settings.about)


def write_words(path: Path, drawn: DrawnWords, drawing: Drawing, seed: int, about: Mapping[str, str]) -> None:
    """Write what was drawn with a seed as a shard that says what it is of, and what drawing took."""
    tries, images = drawn
    rows = pd.DataFrame(
        {
            "type": [one.part for one in tries],
            "prompt": [one.prompt for one in tries],
            "evaluation_seed": seed,
            "ids": [json.dumps(one.ids) for one in tries],
        }
    )
    write_shard(path, rows, images, {**about, "spent": json.dumps(vars(drawing.meter.spent))})
