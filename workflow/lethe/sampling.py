"""Sample images from a pipeline, one row at a time as far as the result goes: a row's seed makes its image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm


def sample_rows(
    pipeline: DiffusionPipeline, rows: pd.DataFrame, *, steps: int, guidance: float, batch: int
) -> list[np.ndarray]:
    """One image, uint8 `[h, w, 3]`, for each row (columns prompt, evaluation_seed), in order.

    Each row draws its noise from its own CPU generator, so an image depends on the pipeline, the prompt, the seed and
    the sampler's settings. Rows sampled together differ from rows sampled alone by rounding at most.
    """
    images: list[np.ndarray] = []
    for start in tqdm(range(0, len(rows), batch), desc="sampling", mininterval=5):
        part = rows.iloc[start : start + batch]
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in part["evaluation_seed"]]
        output = pipeline(
            list(part["prompt"]),
            generator=generators,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="np",
        )
        images += list((output.images * 255).round().astype(np.uint8))
    return images
