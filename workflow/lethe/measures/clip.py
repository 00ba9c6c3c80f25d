"""CLIP embeddings of images and prompts: the measure behind CLIP accuracy, CLIP score and the CLIP-space FID."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from lethe.bases.folder import model_folder
from lethe.bases.loading import check_image_side, load_network, load_processor, load_tokenizer, square_side
from lethe.bases.text import count_cut
from lethe.files.shards import image_names
from lethe.finite import require_directions

BROKEN = "the evaluation CLIP's weights are broken, download them again"


@dataclass(frozen=True)
class Judge:
    """A CLIP model with its name, tokenizer and image processor."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessor
    name: str = "the judge"


def load_judge(model: str, revision: str | None = None, *, device: torch.device, key: str = "") -> Judge:
    """Load a CLIP folder, or a hub id at a revision, in float32; `key` names it in the configuration, for messages.

    Raises ValueError, naming the model, when it is no whole CLIP (`lethe.bases.loading`).
    """
    folder = model_folder(model, revision, key=key)
    model = f"{key}: {model}" if key else model
    network = load_network(CLIPModel, folder, dtype=torch.float32, model=model)
    tokenizer = load_tokenizer(folder, network.config.text_config, model=model)
    processor = load_processor(CLIPImageProcessor, folder, model=model)
    check_image_side(square_side(processor), network.config.vision_config.image_size, model=model)
    return Judge(network.to(device), tokenizer, processor, model)


def load(settings: Mapping[str, Any], device: torch.device) -> Judge:
    """The CLIP of a measure's settings. Raises ValueError as `load_judge` does."""
    return load_judge(settings["model"], settings["revision"], device=device, key="model")


def measure(model: Judge, images: Iterator[np.ndarray], rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Embeddings of images in RGB, uint8 `[h, w, 3]`, and of the prompts of `rows`, if they have some.

    Raises ValueError as `image_embeddings` and `text_embeddings` do.
    """
    columns = {"image": image_embeddings(model, images, image_names(rows))}
    return columns | (texts(model, list(rows["prompt"])) if "prompt" in rows else {})


def texts(model: Judge, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Embeddings of texts."""
    return {"text": text_embeddings(model, prompts)}


def notes(model: Judge, rows: pd.DataFrame) -> list[tuple[int, str]]:
    """How many prompts are longer than what the model reads."""
    prompts, window = list(rows.get("prompt", [])), model.tokenizer.model_max_length
    told = f"prompts are longer than the {window} tokens that {model.name} reads: CLIP scores are of their beginnings"
    return [(count_cut([model.tokenizer], prompts), f"{{}} {told}")] if prompts else []


@torch.no_grad()
def image_embeddings(
    judge: Judge, images: Iterator[np.ndarray], names: Sequence[str], *, batch: int = 64
) -> np.ndarray:
    """Projected image embeddings, not normalised, float32 `[n, d]`, of images in RGB, uint8 `[h, w, 3]`.

    CLIP's own processor resizes and normalises, its image tower embeds.
    Raises ValueError, naming the image, for an embedding that has no direction.
    """
    parts = []
    while some := list(islice(images, batch)):
        pixels = [judge.processor(images=image, return_tensors="pt").pixel_values for image in some]
        embedded = judge.model.get_image_features(pixel_values=torch.cat(pixels).to(judge.model.device))
        parts.append(embedded.pooler_output.cpu().numpy())
    embeddings = np.concatenate(parts)
    require_directions(embeddings, of="image embeddings", names=names, mend=BROKEN)
    return embeddings


@torch.no_grad()
def text_embeddings(judge: Judge, prompts: Sequence[str], *, batch: int = 256) -> np.ndarray:
    """Projected text embeddings, not normalised, float32 `[n, d]`; prompts are cut to the tokenizer's window.

    Raises ValueError, naming the prompt, for an embedding that has no direction.
    """
    parts = []
    for start in range(0, len(prompts), batch):
        ids = judge.tokenizer(
            list(prompts[start : start + batch]), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        parts.append(judge.model.get_text_features(input_ids=ids.to(judge.model.device)).pooler_output.cpu().numpy())
    embeddings = np.concatenate(parts)
    require_directions(embeddings, of="text embeddings", names=[repr(prompt) for prompt in prompts], mend=BROKEN)
    return embeddings
