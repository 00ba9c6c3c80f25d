"""Edits to export and apply, and what they make."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from conftest import CPU, stronger
from lethe.bases.pipeline import load_pipeline
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank
from lethe.edits.weights import WeightEdit
from lethe.records.fingerprints import fingerprint

CONCEPTS = ["AC/DC", "Ü ```` ship"]


def record_for(base: Path) -> dict:
    about = {"name": "tiny", "model": str(base), "revision": None}
    about |= {"fingerprint": fingerprint(base), "weights_sha256": weights_hash(base)}
    return {"step": "mace", "base": about, "concepts": CONCEPTS}


def factored_for(base: Path, drawn: Callable[..., Tensor]) -> FactoredEdit:
    """An edit by factors that images cannot miss."""
    weights = projection_weights(str(base), None)
    concepts = [
        (concept, {n: LowRank(drawn(1, 32, seed=k), drawn(len(w), 1, seed=k)) for n, w in weights.items()})
        for k, concept in enumerate(CONCEPTS)
    ]
    return FactoredEdit.stacked(torch.eye(32) + 0.3 * drawn(32, 32, seed=7), concepts, record_for(base))


def whole_for(base: Path, drawn: Callable[..., Tensor]) -> WeightEdit:
    """An edit that changes every parameter of the U-Net a little, in the dtype that it has."""
    weights = UNet2DConditionModel.from_pretrained(base / "unet", dtype="auto").state_dict()
    changed = {
        name: w + 0.1 * drawn(*w.shape, seed=k).to(w.dtype) for k, (name, w) in enumerate(sorted(weights.items()))
    }
    return WeightEdit(changed, record_for(base))


def layered(base: Path, folder: Path) -> Path:
    """A copy of a tiny base whose U-Net has two layers a block, as Stable Diffusion's, and a level without attention.

    The rules by which programs read names of modules count on both.
    """
    shutil.copytree(base, folder)
    config = dict(UNet2DConditionModel.load_config(base / "unet")) | {"layers_per_block": 2}
    if config.get("addition_embed_type") != "text_time":  # XL has attention at its deeper levels, the others not there
        config |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
        config |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    shutil.rmtree(folder / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(12)
        stronger(UNet2DConditionModel.from_config(config), 1.2).save_pretrained(folder / "unet")
    return folder


def image(pipeline: DiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    output = pipeline("a photo of the ship", generator=generator, num_inference_steps=2, output_type="np")
    return (output.images[0] * 255).round().astype(np.uint8)


def edited_pipeline(base: Path, edit: Edit) -> DiffusionPipeline:
    pipeline = load_pipeline(str(base), None, device=CPU, precision="float32")
    edit.install(pipeline, base_fingerprint=fingerprint(base))
    return pipeline


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
