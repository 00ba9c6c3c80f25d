"""uint8 images to the tensors that models read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_pixels(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]` in [-1, 1], as Stable Diffusion's autoencoder expects."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_imagenet_pixels(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]`, by ImageNet's channel means and standard deviations.

    MACE's published code hands these to the autoencoder, which was made for `to_pixels`.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (to_pixels(images) / 2 + 0.5 - mean) / std


NORMALISATIONS = {"symmetric": to_pixels, "imagenet": to_imagenet_pixels}
