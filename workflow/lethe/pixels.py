"""uint8 images to the tensors that models read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_pixels(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]` in [-1, 1], as Stable Diffusion's autoencoder expects."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float().div(127.5).sub(1)
