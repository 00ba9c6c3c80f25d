"""Attack one edit, or what stands in for one as a control, for one concept, with one probe."""

import importlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lethe.attacks.controls import random_weights
from lethe.attacks.meter import Meter, Spent
from lethe.attacks.trials import Try
from lethe.attacks.workspace import DrawnWords
from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.files.shards import read_about, read_images, read_rows, write_shard
from lethe.files.whole import written_whole
from lethe.inputs.concepts import Concept
from lethe.plugins import manifest
from lethe.steps.edit import base_of, workspace
from lethe.steps.job import Job
from lethe.steps.judging import judges_of, workspace_of

LESS_MEMORY = "sampling.batch"


def run(job: Job) -> None:
    settings, base = job.settings, attacked_base(job)
    concept = Concept(**settings.concept | {"synonyms": tuple(settings.concept["synonyms"])})
    at = json.loads(job.read("thresholds").read_text(encoding="utf-8"))
    module = importlib.import_module(manifest("probes", settings.kind).module)
    chooser, reporter = judges_of(job)
    out = job.out["rows"]
    with workspace(out, job.record()) as folder, standing_in(base, settings.about["edit"], settings.seed):
        edit = next((Edit.load(path) for path in job.reads["edit"]), None)
        space = workspace_of(job, chooser, reporter, name=concept.name, at=at, folder=folder)
        if drawn := job.reads["words"]:
            space = replace(space, **read_words(drawn[0]))
        started = time.perf_counter()
        trials = module.probe(base, edit, concept, settings.probe | settings.probe_files, space)
        seconds = time.perf_counter() - started
        rows = trials.frame()
        about = settings.about | {"concept": concept.name, "kind": settings.kind}
        limits = dict(chooser_at=space.chooser.at, reporter_at=space.reporter.at)
        with written_whole(out) as part:
            rows.assign(**about, **limits).to_parquet(part)
        pictures = rows[["part", "prompt", "seed", "arm", "phase"]].rename(
            columns={"part": "type", "seed": "evaluation_seed"}
        )
        write_shard(job.out["images"], pictures, trials.images, {k: str(v) for k, v in about.items()})
        job.recorded["spent"] = {"seconds": round(seconds, 1)} | vars(space.meter.spent)
    for sentence in getattr(module, "notes", lambda *_: [])(rows):
        job.note(1, sentence)


def attacked_base(job: Job) -> Base:
    """The base, with the pipeline's own text encoders: what an attack puts into them is what the pipeline reads."""
    return Base.of_pipeline(base_of(job).pipeline, job.settings.base["name"])


def read_words(shard: Path) -> dict[str, DrawnWords | Meter]:
    """What was drawn of every word, and what that took, which counts as spent by each concept's attack."""
    rows, spent = read_rows(shard), json.loads(read_about(shard)["spent"])
    told = rows[["type", "prompt", "ids"]].itertuples(index=False)
    tries = [Try(part, prompt, tuple(json.loads(ids))) for part, prompt, ids in told]
    return {"words": (tries, read_images(shard)), "meter": Meter(Spent(**spent))}


@contextmanager
def standing_in(base: Base, edit: str, seed: int) -> Iterator[None]:
    """Where no edit is attacked but a U-Net with random weights, it has them while the block runs."""
    if edit != "random":
        yield
        return
    with random_weights(base.pipeline.unet, seed):
        yield
