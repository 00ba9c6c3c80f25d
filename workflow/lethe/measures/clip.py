"""CLIP embeddings of images and prompts: the measure behind CLIP accuracy, CLIP score and the CLIP-space FID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from lethe.files import check_images, read_pictures


@dataclass(frozen=True)
class Judge:
    """A CLIP model with its tokenizer and image processor."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessor


def load_judge(model: str, revision: str | None = None, *, device: torch.device) -> Judge:
    """Load a CLIP folder, or a hub id at a revision, in float32."""
    return Judge(
        CLIPModel.from_pretrained(model, revision=revision, dtype=torch.float32, use_safetensors=True)
        .to(device)
        .eval(),
        CLIPTokenizer.from_pretrained(model, revision=revision),
        CLIPImageProcessor.from_pretrained(model, revision=revision),
    )


@torch.no_grad()
def image_embeddings(judge: Judge, archive: Path, names: Sequence[str], *, batch: int = 64) -> np.ndarray:
    """Projected image embeddings, not normalised, float32 `[n, d]`, of images named in a zip or folder, in that order.

    CLIP's own processor resizes and normalises, its image tower embeds.
    Raises ValueError as `check_images` and `read_pictures` do.
    """
    check_images(archive, names)
    parts, pictures = [], read_pictures(archive, names)
    while some := list(islice(pictures, batch)):
        pixels = [judge.processor(images=image, return_tensors="pt").pixel_values for image in some]
        embedded = judge.model.get_image_features(pixel_values=torch.cat(pixels).to(judge.model.device))
        parts.append(embedded.pooler_output.cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def text_embeddings(judge: Judge, prompts: Sequence[str], *, batch: int = 256) -> np.ndarray:
    """Projected text embeddings, not normalised, float32 `[n, d]`; prompts are cut to the tokenizer's window."""
    parts = []
    for start in range(0, len(prompts), batch):
        ids = judge.tokenizer(
            list(prompts[start : start + batch]), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        parts.append(judge.model.get_text_features(input_ids=ids.to(judge.model.device)).pooler_output.cpu().numpy())
    return np.concatenate(parts)
