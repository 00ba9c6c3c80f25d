"""Load the base that a step's settings name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lethe.bases import load_pipeline, load_text, pick_device

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from lethe.text import TextEncoders


def pipeline_of(settings: SimpleNamespace, *, scheduler: str | None = None) -> DiffusionPipeline:
    """The base's pipeline on the configured device, with another scheduler if named."""
    device, base = pick_device(settings.device), settings.base
    return load_pipeline(
        base["model"], base["revision"], device=device, precision=settings.precision, scheduler=scheduler
    )


def text_of(settings: SimpleNamespace) -> TextEncoders:
    """The base's tokenizers and text encoders on the configured device."""
    device, base = pick_device(settings.device), settings.base
    return load_text(base["model"], base["revision"], device=device, precision=settings.precision)
