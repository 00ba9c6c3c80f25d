"""What a classifier takes images for: a second judge, which reads no text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    ResNetForImageClassification,
    ViTForImageClassification,
)

from lethe.bases.folder import model_folder, read_object
from lethe.bases.loading import load_network, load_processor

CLASSES = {"resnet": ResNetForImageClassification, "vit": ViTForImageClassification}


@dataclass(frozen=True)
class Classifier:
    """A classifier with its image processor, and what it calls each of its classes."""

    model: nn.Module
    processor: BaseImageProcessor
    names: tuple[str, ...]


def load(settings: Mapping[str, Any], device: torch.device) -> Classifier:
    """The classifier of a measure's settings, in float32.

    Raises ValueError, naming the model, when it is no whole one (`lethe.bases.loading`).
    """
    folder = model_folder(settings["model"], settings["revision"], key="model")
    network = load_network(_class_in(folder), folder, dtype=torch.float32, model=settings["model"]).to(device)
    processor = load_processor(AutoImageProcessor, folder, model=settings["model"])
    labels = network.config.id2label
    return Classifier(network, processor, tuple(labels[k] for k in range(len(labels))))


def measure(model: Classifier, images: Iterator[np.ndarray], rows: pd.DataFrame) -> dict[str, Any]:
    """Of images in RGB, uint8 `[h, w, 3]`: the name of the most likely class, its probability, and that of each class.

    The last is float32 `[n, classes]`, in the order of `model.names`.
    """
    found = probabilities(model, images)
    top = found.argmax(axis=1)
    return {
        "label": [model.names[index] for index in top],
        "probability": [float(row[index]) for row, index in zip(found, top, strict=True)],
        "probabilities": found,
    }


@torch.no_grad()
def probabilities(model: Classifier, images: Iterator[np.ndarray], *, batch: int = 64) -> np.ndarray:
    """The probability of each class, float32 `[n, classes]`. Raises ValueError where one is no number."""
    parts = []
    while some := list(islice(images, batch)):
        pixels = model.processor(images=some, return_tensors="pt").pixel_values
        logits = model.model(pixel_values=pixels.to(model.model.device)).logits
        parts.append(logits.float().softmax(-1).cpu().numpy())
    found = np.concatenate(parts) if parts else np.zeros((0, len(model.names)), np.float32)
    if not np.isfinite(found).all():
        raise ValueError("the classifier's weights are broken, download them again")
    return found


def _class_in(folder: Path) -> type[nn.Module]:
    """The class of transformers that a folder's classifier is of. Raises ValueError where it is none of `CLASSES`."""
    found = read_object(folder / "config.json").get("model_type")
    if found not in CLASSES:
        raise ValueError(f"{folder}: its model_type is {found!r}; a classifier must be one of {', '.join(CLASSES)}")
    return CLASSES[found]
