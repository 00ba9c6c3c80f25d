"""LoRA files: what is written comes back, and diffusers itself can load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bad_input import Case, Place, each_of, refusals, tensors_for
from lethe.bases.unet import cross_attention_projections
from lethe.edits.adapters import WEIGHTS_NAME, load_lora, save_lora

RECORD = {"step": "lora", "concept": "Charles-François Daubigny", "zeta": [1], "alpha": None}


@pytest.fixture
def adapter(unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> dict[str, Tensor]:
    """An adapter as peft names it, of rank 2, with an effect that cannot be missed."""
    state = {}
    for k, (name, module) in enumerate(cross_attention_projections(unet).items()):
        out, width = module.weight.shape
        state[f"{name}.lora_A.weight"] = drawn(2, width, seed=k).float()
        state[f"{name}.lora_B.weight"] = drawn(out, 2, seed=99 + k).float()
    return state


def test_diffusers_loads_an_adapter_and_its_effect_is_up_times_down(
    pipeline: DiffusionPipeline, adapter: dict[str, Tensor], drawn: Callable[..., Tensor], tmp_path: Path
) -> None:
    save_lora(tmp_path, adapter, RECORD)
    inputs = drawn(2, 4, 8, 8).float(), 300, drawn(2, 77, 32).float()
    with torch.no_grad():
        before = pipeline.unet(*inputs).sample
        pipeline.load_lora_weights(tmp_path)
        loaded = pipeline.unet(*inputs).sample
        pipeline.unload_lora_weights()
        for name, update in load_lora(tmp_path / WEIGHTS_NAME).items():
            pipeline.unet.get_submodule(name).weight += update.up @ update.down
        added = pipeline.unet(*inputs).sample
    assert torch.allclose(loaded, added, atol=1e-4)
    assert (loaded - before).abs().max() > 0.1


def test_load_lora_reads_what_save_lora_wrote(adapter: dict[str, Tensor], tmp_path: Path) -> None:
    save_lora(tmp_path / "new", adapter, RECORD)
    updates = load_lora(tmp_path / "new" / WEIGHTS_NAME)
    assert set(updates) == {key.partition(".lora")[0] for key in adapter}
    for name, update in updates.items():
        assert torch.equal(update.down, adapter[f"{name}.lora_A.weight"])
        assert torch.equal(update.up, adapter[f"{name}.lora_B.weight"])
    with safe_open(tmp_path / "new" / WEIGHTS_NAME, "pt") as file:
        assert json.loads(file.metadata()["lethe"]) == RECORD


def test_load_lora_reads_pefts_names_too(adapter: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({f"unet.{key}": tensor for key, tensor in adapter.items()}, tmp_path / "peft.safetensors")
    save_lora(tmp_path, adapter, RECORD)
    ours, theirs = load_lora(tmp_path / WEIGHTS_NAME), load_lora(tmp_path / "peft.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].up, theirs[name].up) for name in ours)


def test_equal_adapters_give_equal_bytes(adapter: dict[str, Tensor], tmp_path: Path) -> None:
    for k in range(8):
        save_lora(tmp_path / str(k), adapter, RECORD)
    assert len({path.read_bytes() for path in tmp_path.glob(f"*/{WEIGHTS_NAME}")}) == 1


def test_half_an_update_is_refused(tmp_path: Path) -> None:
    save_file({"unet.mid.attn2.to_k.lora.down.weight": torch.zeros(1, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"load_lora: mid\.attn2\.to_k has none of lora_B, lora\.up"):
        load_lora(tmp_path / "half.safetensors")


# Bad input

CASES = [
    *refusals(
        "a LoRA",
        {
            "half of a pair": (
                {"unet.a.lora.down.weight": torch.ones(1, 2)},
                ("file.safetensors: load_lora: a has none",),
            ),
            "factors that do not fit": (
                {"unet.a.lora.down.weight": torch.ones(1, 2), "unet.a.lora.up.weight": torch.ones(3, 2)},
                ("file.safetensors: a must have down [n, d] and up [out, n]; got [1, 2], [3, 2]",),
            ),
            "NaN": (
                {"unet.a.lora.down.weight": torch.full((1, 2), torch.nan)},
                ("a.lora.down.weight holds something",),
            ),
            "no tensors": ({}, ("file.safetensors: this is no adapter",)),
        },
        tensors_for(load_lora),
    )
]


@each_of(CASES)
def test_a_bad_adapter_is_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
