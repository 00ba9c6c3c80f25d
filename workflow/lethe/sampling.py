"""Sample images from a pipeline, one row at a time as far as the result goes: a row's seed makes its image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from lethe.files import OWN_SETTINGS


def sample_rows(
    pipeline: DiffusionPipeline, rows: pd.DataFrame, *, steps: int, guidance: float, batch: int
) -> list[np.ndarray]:
    """One image, uint8 `[h, w, 3]`, for each row (columns prompt, evaluation_seed), in order.

    Where `rows` have columns guidance, width or height, a row's own count instead of `guidance` and the base's size;
    rows of a batch with equal ones are sampled together.
    Each row draws its noise from its own CPU generator, so an image depends on the pipeline, the prompt, the seed and
    the sampler's settings. Rows sampled together differ from rows sampled alone by rounding at most.
    """
    images: list[np.ndarray] = [np.empty(0)] * len(rows)
    for start in tqdm(range(0, len(rows), batch), desc="sampling", mininterval=5):
        for own, places in _alike(rows, range(start, min(start + batch, len(rows)))):
            part = rows.iloc[places]
            generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in part["evaluation_seed"]]
            output = pipeline(
                list(part["prompt"]),
                generator=generators,
                num_inference_steps=steps,
                output_type="np",
                **{"guidance_scale": guidance} | own,
            )
            for place, image in zip(places, (output.images * 255).round().astype(np.uint8), strict=True):
                images[place] = image
    return images


def _alike(rows: pd.DataFrame, places: range) -> list[tuple[dict[str, float], list[int]]]:
    """Places of rows that have the same settings of the sampler of their own, and these as the pipeline's arguments."""
    names = [name for name in OWN_SETTINGS if name in rows]
    groups: dict[tuple, list[int]] = {}
    for place, own in zip(places, rows.iloc[places][names].itertuples(index=False, name=None), strict=True):
        groups.setdefault(own, []).append(place)
    arguments = ["guidance_scale" if name == "guidance" else name for name in names]
    return [(dict(zip(arguments, own, strict=True)), found) for own, found in groups.items()]
