"""What attacks by gradient have in common: images of the concept, and what SDXL reads of their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base


def images_of(base: Base, phrase: str, count: int, workspace: Workspace, *, first_seed: int) -> list[np.ndarray]:
    """Images of a phrase by the base as it is, with seeds from `first_seed` on."""
    with workspace.pipeline_of(base, None) as pipeline:
        prompts = [workspace.asked(phrase)] * count
        return workspace.draw(pipeline, prompts, range(first_seed, first_seed + count))


def sizes_of(base: Base, size: Sequence[int], n: int) -> Mapping[str, Tensor]:
    """What SDXL reads of a picture's size beside a prompt, in n rows; nothing for bases with one encoder."""
    if len(base.text.encoders) == 1:
        return {}
    like = next(base.text.encoders[-1].parameters())
    return {"time_ids": like.new_tensor([*size, 0, 0, *size]).repeat(n, 1)}
