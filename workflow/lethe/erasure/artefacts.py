"""What methods read of each concept: images that the base draws of it, and where it is in them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline

from lethe.bases.pipeline import use_scheduler
from lethe.bases.sampling import SAMPLING, sample_rows
from lethe.inputs.templates import fill


def draw_images(
    pipeline: DiffusionPipeline, phrase: str, settings: Mapping[str, Any], *, seed: int
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Images of a phrase, uint8 `[h, w, 3]`, and their rows (type, prompt, evaluation_seed), with seeds from `seed` on.

    `settings` are those of `images` in the configuration with the one `prompt` of the phrase's kind, or with `prompts`
    that are taken in turn. The pipeline keeps its own scheduler. Raises ValueError as `sample_rows` does.
    """
    seeds = range(seed, seed + settings["count"])
    templates = settings["prompts"] if "prompts" in settings else [settings["prompt"]]
    prompts = [fill(template, phrase) for template, _ in zip(cycle(templates), seeds, strict=False)]
    rows = pd.DataFrame({"type": phrase, "prompt": prompts, "evaluation_seed": seeds})
    own = pipeline.scheduler
    use_scheduler(pipeline, settings["scheduler"])
    try:
        drawn = sample_rows(pipeline, rows, **{key: settings[key] for key in SAMPLING if key in settings})
    finally:
        pipeline.scheduler = own
    return rows, drawn
