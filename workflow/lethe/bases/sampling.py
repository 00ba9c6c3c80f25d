"""Sample images from a pipeline, one row at a time as far as the result goes: a row's seed makes its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from lethe.files.shards import OWN_SETTINGS
from lethe.finite import mend_of, refuse_rows

SAMPLING = ("steps", "guidance", "batch", "vae_slicing", "vae_tiling")  # settings that `sample_rows` is told


def sample_rows(
    pipeline: DiffusionPipeline,
    rows: pd.DataFrame,
    *,
    steps: int,
    guidance: float,
    batch: int,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
) -> list[np.ndarray]:
    """One image, uint8 `[h, w, 3]`, for each row (columns prompt, evaluation_seed), in order.

    Where `rows` have columns guidance, width or height, a row's own count instead of `guidance` and the base's size;
    rows of a batch with equal ones are sampled together.
    Each row draws its noise from its own CPU generator, so an image depends on the pipeline, the prompt, the seed and
    the sampler's settings. Rows sampled together differ from rows sampled alone by rounding at most. So do rows that
    are decoded one by one (`vae_slicing`); `vae_tiling` decodes large images in tiles, which shows.

    Raises ValueError, naming prompt and seed, when what the autoencoder makes of a row holds NaN or infinity: as uint8
    it would be a black picture, or one clipped to nothing, that erases perfectly.
    """
    images: list[np.ndarray] = [np.empty(0)] * len(rows)
    with _decoding(pipeline.vae, slicing=vae_slicing, tiling=vae_tiling):
        for start in tqdm(range(0, len(rows), batch), desc="sampling", mininterval=5):
            for own, places in _alike(rows, range(start, min(start + batch, len(rows)))):
                drawn = _sampled(pipeline, rows.iloc[places], steps, {"guidance_scale": guidance} | own)
                for place, image in zip(places, drawn, strict=True):
                    images[place] = image
    return images


@contextmanager
def _decoding(vae: AutoencoderKL, *, slicing: bool, tiling: bool) -> Iterator[None]:
    """Let an autoencoder take less memory while the block runs; where it does so anyway, nothing changes."""
    before = vae.use_slicing, vae.use_tiling
    vae.use_slicing, vae.use_tiling = before[0] or slicing, before[1] or tiling
    try:
        yield
    finally:
        vae.use_slicing, vae.use_tiling = before


def _sampled(
    pipeline: DiffusionPipeline, part: pd.DataFrame, steps: int, settings: Mapping[str, float]
) -> list[np.ndarray]:
    """The images of rows that the pipeline draws in one call, with the same further `settings`."""
    generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in part["evaluation_seed"]]
    with _watched(pipeline) as decoded:
        output = pipeline(
            list(part["prompt"]), generator=generators, num_inference_steps=steps, output_type="np", **settings
        )
    refuse_rows(
        _good(decoded, output.images),
        of="sampled images",
        names=[
            f"{prompt!r} with seed {seed}" for prompt, seed in zip(part["prompt"], part["evaluation_seed"], strict=True)
        ],
        mend=mend_of(pipeline.unet.dtype),
    )
    # In the order of a picture read from a file: in another one what is trained on them rounds otherwise.
    return list((output.images * 255).round().astype(np.uint8, order="C"))


def _alike(rows: pd.DataFrame, places: range) -> list[tuple[dict[str, float], list[int]]]:
    """Places of rows that have the same settings of the sampler of their own, and these as the pipeline's arguments."""
    names = [name for name in OWN_SETTINGS if name in rows]
    groups: dict[tuple, list[int]] = {}
    for place in places:
        groups.setdefault(tuple(rows[name].iloc[place] for name in names), []).append(place)
    arguments = ["guidance_scale" if name == "guidance" else name for name in names]
    return [(dict(zip(arguments, own, strict=True)), found) for own, found in groups.items()]


@contextmanager
def _watched(pipeline: DiffusionPipeline) -> Iterator[list[Tensor]]:
    """Note, while the block runs, which rows of each batch leave the autoencoder finite: bool `[n]` a batch.

    Behind it, where the pipeline clips, an infinity has become a pixel like any other.
    """
    decoded: list[Tensor] = []
    hook = pipeline.vae.decoder.register_forward_hook(
        lambda module, given, made: decoded.append(made.isfinite().flatten(1).all(1).cpu())
    )
    try:
        yield decoded
    finally:
        hook.remove()


def _good(decoded: Sequence[Tensor], images: np.ndarray) -> Tensor:
    """Which images `[n, h, w, 3]` are finite, and were when they left the autoencoder, in batches or in tiles."""
    good = torch.from_numpy(np.isfinite(images).all(axis=(1, 2, 3)))
    rows = torch.cat(list(decoded))
    return good & (rows if len(rows) == len(good) else rows.all())
