"""Devices that models run on."""

from __future__ import annotations

import platform

import torch


def pick_device(name: str) -> torch.device:
    """The device of that name: `auto` is CUDA where there is one, else the CPU.

    Raises ValueError, naming the key `device`, for a GPU that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"finds {count}" if count else "finds none (no NVIDIA driver, or a torch without CUDA)"
            mend = "set device to auto or cpu, or run where there is one, as with --profile slurm"
            raise ValueError(f"device is {name}, and torch on {platform.node()} {found}; {mend}")
    return device
