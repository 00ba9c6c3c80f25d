"""A U-Net that is being changed, beside the same U-Net as it was: only what changes is there twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call


class Student:
    """A U-Net with values of its own for some parameters; all others are those of `unet`, which stays as it is.

    `values` are float32 whatever the U-Net computes in: a small step of the optimiser would vanish between two numbers
    of half precision (mixed precision training, arXiv 1710.03740, Sec. 3.1). A call rounds them to the U-Net's dtype.
    """

    def __init__(self, unet: UNet2DConditionModel, names: Collection[str]) -> None:
        self.unet = unet
        self.before = {name: parameter.detach() for name, parameter in unet.named_parameters()}
        self.values = {name: nn.Parameter(self.before[name].float().clone()) for name in names}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        dtype = self.unet.dtype
        values = {name: value.to(dtype) for name, value in self.values.items()}
        return functional_call(self.unet, self.before | values, args, kwargs)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Give every parameter the value of its name."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The values, on the CPU, in the U-Net's dtype."""
        return {name: value.detach().to(self.unet.dtype).cpu().clone() for name, value in self.values.items()}
