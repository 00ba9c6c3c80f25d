"""Where a concept is in an image: text-prompted segmentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPSegForImageSegmentation, CLIPTokenizer

log = logging.getLogger(__name__)


@torch.no_grad()
def segment(
    clipseg: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    processor: CLIPImageProcessor,
    images: Sequence[np.ndarray],
    prompt: str,
    *,
    threshold: float,
) -> np.ndarray:
    """Masks of what `prompt` names, bool `[n, h, w]` in the images' size (uint8 `[h, w, 3]`, all alike).

    An image in which nothing reaches `threshold` gets the full frame and a warning.
    """
    pixels = processor(images=list(images), return_tensors="pt").pixel_values.to(clipseg.device)
    ids = tokenizer([prompt] * len(images), padding="max_length", truncation=True, return_tensors="pt").input_ids
    logits = clipseg(input_ids=ids.to(clipseg.device), pixel_values=pixels).logits
    logits = resized(logits.float(), images[0].shape[:2])
    masks = (logits.sigmoid() > threshold).cpu().numpy()
    for number, mask in enumerate(masks):
        if not mask.any():
            log.warning("nothing found for %r in image %d: its mask is the full frame", prompt, number)
            mask[:] = True
    return masks


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """CLIPSeg's logits (`[n, h, w]`, or `[h, w]` for one image) to `[n, *size]`, bilinear."""
    logits = logits.reshape(-1, 1, *logits.shape[-2:])
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[:, 0]


def full_frames(images: Sequence[np.ndarray]) -> np.ndarray:
    """Masks that cover everything, bool `[n, h, w]`; used for styles."""
    return np.ones((len(images), *images[0].shape[:2]), bool)
