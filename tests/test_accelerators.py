"""Every method and measure on a pretended accelerator: to the numbers of the CPU, with nothing left where it was.

With float64 it stands for a GPU by CUDA, without for Apple's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lethe
from accelerators import PRETENDED, accelerator
from conftest import CPU
from lethe.bases.devices import exact, exact_device
from lethe.bases.pipeline import load_pipeline
from lethe.files.tensors import read_tensors
from lethe.plugins import kinds

BRIEF = dict(count=2, steps=1, guidance=2.0)
SECTIONS = dict(images=BRIEF, masks={"segmenter": "full-frame"}, templates={"used": 2})
PRIOR = ["a picture of a bird in the sky", "a photo of the ship"]
SETTINGS: dict[str, Mapping[str, Any]] = {
    "mace": dict(prior=PRIOR, domain_prior=["bird"], lora={"steps": 1, "preservation_weight": 1.0}),
    "uce": dict(prior=PRIOR, preserve=["bird"]),
    "rece": dict(prior=PRIOR, preserve=["bird"], rounds=1),
    "lethe": dict(prior=PRIOR, retain=["bird"], tau=1.0),
    "hardened": dict(  # without norms: of a bias of 0 Adam's first step is but the sign of a gradient
        **dict(retain=["bird"], retain_images=2, sampling_steps=1, closed_form={"tau": 1.0}, prior=PRIOR),
        **dict(parameters="x", rounds=1, word={"steps": 1}, steps=1),
    ),
    "speed": dict(retain=["bird", "sky"], tau=1.0),
    "oce": dict(prior=PRIOR, preserve=["bird"]),
    "esd": dict(steps=1, sampling_steps=2),
    "esd-contrastive": dict(steps=1, sampling_steps=2),
    "ac": dict(steps=1, preservation_weight=1.0),
    "fmn": dict(steps=1, inversion={"steps": 1}),
    "spm": dict(steps=1, sampling_steps=2, anchors=["bird", "sky"]),
    "sld": {},
    "negative-prompt": {},
    "uce-debias": dict(attributes=["bird", "sky"], rounds=1, drawing=dict(count=2, steps=1)),
}
BOTH = ("mace", "uce", "rece", "lethe", "speed", "oce")  # whose sums are there with float64, and else on the CPU
WITHOUT = ("spm", "uce-debias")  # of the others, those that have float64 too: the harder half of two is enough
DRAWS = ("uce", "sld", "negative-prompt", "spm")  # with one edit of each form


def edited(folder: Path, device: torch.device, method: str, out: Path, **more: Any) -> tuple[dict, np.ndarray]:
    """The tensors of an edit that is made on a device, and what the pipeline draws there with it."""
    pipeline = load_pipeline(str(folder), None, device=device, precision="float32")
    edit = lethe.erase(pipeline, {"ship": "ground"}, method, seed=3, **SECTIONS, **SETTINGS[method], **more)
    edit.save(out)
    edit = lethe.Edit.load(out)
    edit.install(pipeline)
    drawn = lethe.sample(pipeline, ["a photo of the ship"], steps=1) if method in DRAWS else np.zeros(1)
    edit.remove(pipeline)
    return read_tensors(out)[0], np.stack(drawn)


def test_no_method_is_left_out() -> None:
    assert SETTINGS.keys() == set(kinds("methods"))


@pytest.mark.parametrize("method", SETTINGS)
def test_a_method_makes_the_same_edit_elsewhere(
    method: str, sd_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    """Equal but for rounding: attention has another kernel there, and systems may be hardly solvable."""
    more = {"judge": {"model": str(clip_folder)}} if method == "uce-debias" else {}
    wanted, here = edited(sd_folder, CPU, method, tmp_path / "here.safetensors", **more)
    for float64 in (True, False) if method in BOTH else (method not in WITHOUT,):
        with accelerator(float64=float64):
            found, there = edited(sd_folder, PRETENDED, method, tmp_path / "there.safetensors", **more)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert (found[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max(), name
        assert np.abs(there.astype(int) - here).max() <= 1


def test_the_pretended_accelerator_refuses_what_a_real_one_does() -> None:
    here = torch.ones(2, 2)
    with accelerator(float64=True):
        there = here.to(PRETENDED)
        assert there.device == PRETENDED
        assert torch.equal((there @ there).cpu(), here @ here)
        assert exact(there).device == PRETENDED
        with pytest.raises(RuntimeError, match="same device"):
            there @ here
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
    with accelerator(float64=False):
        there = here.to(PRETENDED)
        with pytest.raises(TypeError, match="no float64"):
            there.double()
        assert (exact(there).device, exact(there).dtype) == (CPU, torch.float64)
    assert exact_device(torch.device("mps")) == CPU
    assert exact_device(torch.device("cuda:1")) == torch.device("cuda:1")
