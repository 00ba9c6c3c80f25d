"""The U-Net family of Stable Diffusion 1, 2 and XL: the projections that read text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:  # diffusers and transformers take seconds to import: the functions that load models import them
    from diffusers import UNet2DConditionModel


PROJECTIONS = ("attn2.to_k", "attn2.to_v")


def cross_attention_projections(unet: UNet2DConditionModel) -> dict[str, nn.Linear]:
    """The modules `attn2.to_k` and `attn2.to_v` by name: down blocks, up blocks, middle block.

    Raises ValueError when there is none, or when they read text states of different widths.
    """
    found = {name: module for name, module in unet.named_modules() if name.endswith(PROJECTIONS)}
    widths = {module.in_features for module in found.values()}
    if len(widths) != 1:
        raise ValueError(f"cross_attention_projections: expected text states of one width; found {sorted(widths)}")
    return found


@torch.no_grad()
def set_projections(unet: UNet2DConditionModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights `[out, d]` into the modules of `cross_attention_projections` with those names, in place."""
    for name, weight in weights.items():
        unet.get_submodule(name).weight.copy_(weight)
