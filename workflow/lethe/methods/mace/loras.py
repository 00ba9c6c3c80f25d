"""A concept's LoRA as MACE trains it: on the base refined for some concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor

from lethe.bases.pipeline import text_encoders
from lethe.bases.schedulers import training_schedule
from lethe.bases.unet import cross_attention_projections, set_projections
from lethe.erasure.moments import ConceptMoments, Moment
from lethe.methods.mace.join import RefinementSettings, preserved, refinement, transformed
from lethe.methods.mace.training import (
    LoraSettings,
    concept_examples,
    preserved_examples,
    span_of_anchor,
    train_lora,
)


def concept_lora(
    pipeline: DiffusionPipeline,
    concept: str,
    settings: Mapping[str, Any],
    *,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    templates: Sequence[str],
    moments: Iterable[ConceptMoments],
    priors: Sequence[Moment | None],
    preserved_images: tuple[Sequence[str], Sequence[np.ndarray]] | None = None,
    anchor: str | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train a LoRA on the base refined for the concepts whose `moments` these are; the pipeline stays as it was.

    Args:
        settings: `lora`, `seed`, and of the refinement `preserve_weight`, `scale_convention`, `train_preserve_scale`
            and `lamb`, as in the manifest.  images: uint8 `[h, w, 3]`.  masks: bool `[h, w]`, one for each image.
        templates: prompts to train with.  priors: the prior and the domain prior.
        preserved_images: prompts and images that the LoRA should go on drawing, where it preserves any.
        anchor: what `lora.form: supl` keeps the LoRA off; no other form reads it.
    Returns: the adapter's state and the loss of each step.
    Raises: ValueError, naming the concept, when training meets something that is no number; as `span_of_anchor` does.
    """
    lora = LoraSettings(**settings["lora"], seed=settings["seed"])
    kept = preserved(*priors, weight=settings["preserve_weight"])
    weights = RefinementSettings(*(settings[key] for key in ("scale_convention", "train_preserve_scale", "lamb")))
    transform = refinement(moments, kept, weights)
    projections = {name: module.weight for name, module in cross_attention_projections(pipeline.unet).items()}
    before = {name: weight.detach().clone() for name, weight in projections.items()}
    set_projections(pipeline.unet, transformed(projections, transform))
    try:
        alphas, _ = training_schedule(pipeline.scheduler)
        examples = concept_examples(pipeline, concept, templates, images, masks, lora)
        shown = preserved_examples(pipeline, *preserved_images, lora) if preserved_images else None
        untouched = span_of_anchor(text_encoders(pipeline), templates, anchor) if lora.form == "supl" else None
        return train_lora(pipeline.unet, alphas, examples, lora, preserved=shown, untouched=untouched)
    except FloatingPointError as error:
        raise ValueError(f"the LoRA of {concept!r} cannot be trained: {error}") from None
    finally:
        set_projections(pipeline.unet, before)
