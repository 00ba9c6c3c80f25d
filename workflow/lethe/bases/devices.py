"""Devices that models run on, and those that exact sums are computed on."""

from __future__ import annotations

import os
import platform

import torch
from torch import Tensor

CPU = torch.device("cpu")
WITHOUT_FLOAT64 = {"mps"}
NO_CUDA = "no NVIDIA driver, or a torch without CUDA"
NO_MPS = "no Apple GPU, or a torch without MPS"


def pick_device(name: str) -> torch.device:
    """The device of that name: `auto` is CUDA where there is one, else the CPU.

    Raises ValueError, naming the key `device`, for a GPU that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    found = None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"finds {count}" if count else f"finds none ({NO_CUDA})"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        found = f"finds none ({NO_MPS})"
    if found:
        mend = "set device to auto or cpu, or run where there is one, as with --profile slurm"
        raise ValueError(f"device is {name}, and torch on {platform.node()} {found}; {mend}")
    return device


def repeat_results(device: torch.device) -> None:
    """Let this process choose the kernels of CUDA that round alike run after run, where torch leaves a choice.

    To be called before the first product on the GPU. What has no such kernel, as the backward pass of some attention,
    goes on to round as it may. Source: torch's notes on reproducibility.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True


def exact_device(device: torch.device) -> torch.device:
    """Where sums in float64 of what a device holds are computed: there, or on the CPU for one without float64."""
    return CPU if device.type in WITHOUT_FLOAT64 else device


def exact(values: Tensor) -> Tensor:
    """`values` in float64, on the `exact_device` of theirs."""
    return values.to(exact_device(values.device)).to(torch.float64)
