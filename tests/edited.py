"""Edits to export and apply, and what they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import CPU
from lethe.bases.pipeline import load_pipeline
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank
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
