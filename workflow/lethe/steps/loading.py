"""Load the base that a step's settings name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lethe.bases import load_pipeline, load_text, pick_device
from lethe.schedulers import OWN

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from lethe.text import TextEncoders


def pipeline_of(settings: SimpleNamespace, *, scheduler: str = OWN) -> DiffusionPipeline:
    """The base's pipeline on the configured device, with its own scheduler or the one named."""
    return load_pipeline(**_where(settings), scheduler=scheduler)


def text_of(settings: SimpleNamespace) -> TextEncoders:
    """The base's tokenizers and text encoders on the configured device."""
    return load_text(**_where(settings))


def _where(settings: SimpleNamespace) -> dict:
    base = {key: settings.base[key] for key in ("model", "revision", "variant")}
    if "name" in settings.base:  # a prior's text encoders may be those of several bases
        base["key"] = f"bases.{settings.base['name']}.model"
    return base | {"device": pick_device(settings.device), "precision": settings.precision}
