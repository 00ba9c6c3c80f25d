"""Faces that MTCNN finds in images (arXiv 1604.02878), by facenet-pytorch 2.5.3, whose wheel holds the weights.

The package is optional. Boxes are stored as they are; what widens them or wants a higher score does so later.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

RELEASE = "2.5.3"  # 2.6.0 wants a torch below 2.3
INSTALL = "pip install -c envs/constraints.txt facenet-pytorch"
SIDES = ("left", "top", "right", "bottom")
CELL = 12.0  # pixels: what the first network looks at at once


def load(settings: Mapping[str, Any], device: torch.device) -> MTCNN:
    """The library's detector.

    Raises ValueError, saying what to install, when the package is missing or of another release.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ValueError(f"looking for faces needs a package that is optional ({error}); run {INSTALL}") from None
    if (found := importlib.metadata.version("facenet-pytorch")) != RELEASE:
        raise ValueError(f"looking for faces is by facenet-pytorch {RELEASE}, and {found} is installed; run {INSTALL}")
    thresholds = [settings["thresholds"][name] for name in ("proposed", "refined", "found")]
    return MTCNN(
        min_face_size=settings["minimum_size"],
        thresholds=thresholds,
        factor=settings["factor"],
        select_largest=False,  # the best score first
        device=device,
    )


def measure(model: MTCNN, images: Iterator[np.ndarray], rows: pd.DataFrame) -> dict[str, list]:
    """The faces of each image (RGB, uint8 `[h, w, 3]`).

    faces: how many.  Of each image an array, float32, in the order of the scores: face_score, from 0 to 1; face_left,
    face_top, face_right, face_bottom, in pixels from the top left corner, which may lie outside the image.
    """
    found = [faces_in(model, image) for image in images]
    columns = {"faces": [len(scores) for _, scores in found], "face_score": [scores for _, scores in found]}
    return columns | {f"face_{side}": [boxes[:, k] for boxes, _ in found] for k, side in enumerate(SIDES)}


def faces_in(model: MTCNN, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `[n, 4]` (`SIDES`) and scores `[n]` of the faces in an image, both float32, the best score first.

    An image smaller than the smallest face has none, which the library does not say but fails at.
    """
    boxes = None
    if min(image.shape[:2]) * (CELL / model.min_face_size) >= CELL:
        boxes, scores = model.detect(image)
    if boxes is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    return boxes.astype(np.float32), scores.astype(np.float32)
