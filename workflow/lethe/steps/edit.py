"""Erase a task's concepts together by a method, and write the edit."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lethe.bases.base import Base
from lethe.edits.adapters import load_lora
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.files.shards import read_images, read_rows
from lethe.files.tensors import read_tensors
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
    "adapters": lambda path: read_tensors(path)[0],
    "images": read_images,
    "anchor_images": read_images,
    "anchor_captions": lambda path: list(read_rows(path)["prompt"]),
    "masks": lambda path: [mask > 127 for mask in read_images(path)],
}


def run(job: Job) -> None:
    settings, base = job.settings, base_of(job)
    concepts = [Concept(**concept) for concept in settings.concepts]
    given, reads = given_to(job, concepts)
    out = job.out["edit"]
    names = [concept.name for concept in concepts]
    about = settings.base | {"weights_sha256": base.weights_sha256}
    record = job.record(base=about, task=settings.task, concepts=names)
    record["method"] = settings.name  # the settings of that name stay: checkpoints of others are of another training
    with workspace(out, record) as checkpoints:
        edit = method_of(job).erase(base, concepts, given, reads, checkpoints)
        edit.record.update(record)
        edit.save(out)


def base_of(job: Job) -> Base:
    """The base that a job works on."""
    about = job.settings.base
    return Base.in_folder(folder_of(about), about, device=job.device, precision=job.settings.precision)


def method_of(job: Job) -> ModuleType:
    """The module of the method that a job runs."""
    return importlib.import_module(manifest("methods", job.settings.kind).module)


def given_to(job: Job, concepts: Sequence[Concept]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a method is given, lists of texts without those that name a concept; and what it reads."""
    settings = job.settings
    given = settings.method | ({} if settings.seed is None else {"seed": settings.seed})
    given |= {key: unnamed(prior_texts(prior), concepts) for key, prior in settings.lists.items()}
    return given, artefacts({name: paths for name, paths in job.reads.items() if name not in settings.lists})


@contextmanager
def workspace(out: Path, record: Mapping[str, object]) -> Iterator[Path]:
    """A folder for checkpoints of an output that is made just so; it goes once the output is there."""
    checkpoints = out.with_name(f"{out.name}.work")
    yield workspace_of(record, checkpoints)
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
