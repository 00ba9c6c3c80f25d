"""Erase a task's concepts together by a method, and write the edit."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

from lethe.bases.base import Base
from lethe.edits.adapters import load_lora
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.files.shards import read_images, read_rows
from lethe.inputs.concepts import Concept
from lethe.inputs.priors import prior_texts
from lethe.inputs.texts import unnamed
from lethe.plugins import manifest
from lethe.records.records import workspace_of
from lethe.steps.job import Job
from lethe.steps.loading import folder_of

# What methods may read of each concept, and how it is loaded; whatever else they read is a prior, or none.
OF_CONCEPTS = {
    "moments": load_concept_moments,
    "loras": load_lora,
    "images": read_images,
    "anchor_images": read_images,
    "anchor_captions": lambda path: list(read_rows(path)["prompt"]),
    "masks": lambda path: [mask > 127 for mask in read_images(path)],
}


def run(job: Job) -> None:
    settings = job.settings
    about = settings.base
    base = Base.in_folder(folder_of(about), about, device=job.device, precision=settings.precision)
    concepts = [Concept(**concept) for concept in settings.concepts]
    method = importlib.import_module(manifest("methods", settings.kind).module)
    out = job.out["edit"]
    names = [concept.name for concept in concepts]
    record = job.record(base=about | {"weights_sha256": base.weights_sha256}, task=settings.task, concepts=names)
    record["method"] = settings.name  # the settings of that name stay: checkpoints of others are of another training
    given = settings.method | ({} if settings.seed is None else {"seed": settings.seed})
    given |= {key: unnamed(prior_texts(prior), concepts) for key, prior in settings.lists.items()}
    reads = artefacts({name: paths for name, paths in job.reads.items() if name not in settings.lists})
    checkpoints = out.with_name(f"{out.name}.work")
    edit = method.erase(base, concepts, given, reads, workspace_of(record, checkpoints))
    edit.record.update(record)
    edit.save(out)
    shutil.rmtree(checkpoints, ignore_errors=True)


def artefacts(reads: dict[str, list[Path]]) -> dict[str, Any]:
    """What a method reads, by name: of concepts a sequence that loads one at a time, priors at once."""
    loaded: dict[str, Any] = {}
    for name, paths in reads.items():
        if name in OF_CONCEPTS:
            loaded[name] = Loaded(OF_CONCEPTS[name], paths)
        else:
            loaded[name] = load_moment(paths[0]) if paths else None
    return loaded
