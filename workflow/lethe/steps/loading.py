"""Load the base that a job's settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.bases.devices import CPU
from lethe.bases.folder import base_folder
from lethe.bases.pipeline import load_pipeline, load_text, offload
from lethe.bases.schedulers import OWN
from lethe.records.fingerprints import KEPT, KeptHashes, fingerprint, text_fingerprint

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from lethe.bases.text import TextEncoders
    from lethe.steps.job import Job


def pipeline_of(job: Job, *, scheduler: str = OWN, draws: bool = False) -> DiffusionPipeline:
    """The base's pipeline on the job's device, with its own scheduler or the one named.

    Of a job that only `draws` it is on the CPU where the configuration says offload, until `offload_parts`.
    """
    where = _where(job.settings.base, job)
    if draws and job.offload:
        where["device"] = CPU
    return load_pipeline(**where, scheduler=scheduler)


def offload_parts(pipeline: DiffusionPipeline, job: Job) -> None:
    """Where the configuration says offload, let a pipeline's parts wait on the CPU and run on the job's device.

    Raises ValueError as `lethe.bases.pipeline.offload` does.
    """
    if job.offload:
        offload(pipeline, job.device)


def text_of(job: Job) -> TextEncoders:
    """The tokenizers and text encoders that the settings' `text` names, on the job's device."""
    return load_text(**_where(job.settings.text, job))


def folder_of(base: Mapping) -> Path:
    """The folder of a base (`model`, `revision`, `variant`, and its `name` if it has one).

    Raises ValueError when it is not there, or not what `fingerprint` says any more: 16 digits say which text encoders
    it has, 64 say all of it.
    """
    folder = base_folder(base["model"], base["revision"], variant=base["variant"], key=_key(base))
    of = text_fingerprint if len(base["fingerprint"]) == 16 else fingerprint
    if of(folder, variant=base["variant"], hash_of=KeptHashes(KEPT)) != base["fingerprint"]:
        raise ValueError(f"{base['model']} has changed since this run was planned; run snakemake again")
    return folder


def _where(base: Mapping, job: Job) -> dict:
    folder_of(base)
    place = {name: base[name] for name in ("model", "revision", "variant")}
    return place | {"key": _key(base), "device": job.device, "precision": job.settings.precision}


def _key(base: Mapping) -> str:
    """The key of a base in the configuration; text encoders may be those of several."""
    return f"bases.{base['name']}.model" if "name" in base else ""
