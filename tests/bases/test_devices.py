"""Devices: the one that was asked for, or a sentence that names the key."""

from __future__ import annotations

import re

import pytest
import torch

from conftest import CPU
from lethe.bases.devices import pick_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """So many GPUs as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(("gpus", "device"), [(2, "cuda"), (0, "cpu")], indirect=["gpus"])
@pytest.mark.usefixtures("gpus")
def test_auto_is_cuda_where_there_is_one(device: str) -> None:
    assert pick_device("auto") == torch.device(device)
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_a_gpu_is_picked_by_its_number() -> None:
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"^device is cuda:2, and torch on .* finds 2; set device to auto or cpu, or "):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_by_its_key(name: str) -> None:
    """F20, on a machine without one."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    said = f"device is {name}, and torch on .* finds none (no NVIDIA driver, or a torch without CUDA); set device to"
    with pytest.raises(ValueError, match=re.escape(said).replace(re.escape(".*"), ".*")):
        pick_device(name)


def test_apples_gpu_is_taken_where_it_is_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")
    assert pick_device("auto") == CPU or torch.cuda.is_available()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^device is mps, and torch on .* finds none \(no Apple GPU, or a torch "):
        pick_device("mps")
