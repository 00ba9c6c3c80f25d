"""Edits: what is saved comes back, what does not belong is refused and leaves the U-Net alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from lethe.bases import cross_attention_projections
from lethe.edits import Edit, apply_edit, load_edit, save_edit

RECORD = {"base": {"name": "tiny", "fingerprint": "f" * 64}, "concepts": ["ship", "Charles-François Daubigny"], "a": 1}


def state_of(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


@pytest.fixture
def edit(unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> Edit:
    """New weights for all cross-attention projections of the tiny U-Net."""
    weights = {
        f"{name}.weight": drawn(*module.weight.shape, seed=k).float()
        for k, (name, module) in enumerate(cross_attention_projections(unet).items())
    }
    return Edit(weights, RECORD)


def test_an_edit_comes_back_from_its_file(tmp_path: Path, edit: Edit) -> None:
    save_edit(tmp_path / "deep" / "edit.safetensors", edit)
    back = load_edit(tmp_path / "deep" / "edit.safetensors")
    assert back.record == edit.record
    assert back.weights.keys() == edit.weights.keys()
    assert all(torch.equal(back.weights[name], weight) for name, weight in edit.weights.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["edit.safetensors"]


def test_equal_edits_give_equal_bytes(tmp_path: Path, edit: Edit) -> None:
    turned = Edit(dict(reversed(edit.weights.items())), dict(reversed(edit.record.items())))
    for k in range(8):
        save_edit(tmp_path / str(k), edit if k % 2 else turned)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_apply_edit_changes_the_named_weights_and_no_others(unet: UNet2DConditionModel, edit: Edit) -> None:
    before = state_of(unet)
    apply_edit(unet, edit, base_fingerprint="f" * 64)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, edit.weights.get(name, before[name]))
    assert sum(name in edit.weights for name in before) == len(edit.weights) == 14


def test_apply_edit_keeps_the_dtype_and_the_parameters(unet: UNet2DConditionModel, edit: Edit) -> None:
    unet = unet.to(torch.bfloat16)
    parameters = dict(unet.named_parameters())
    apply_edit(unet, edit, base_fingerprint="f" * 64)
    for name, weight in edit.weights.items():
        assert dict(unet.named_parameters())[name] is parameters[name]
        assert torch.equal(parameters[name], weight.to(torch.bfloat16))


def test_an_edit_for_another_base_is_refused(unet: UNet2DConditionModel, edit: Edit) -> None:
    before = state_of(unet)
    text = (
        f"the edit was made for base tiny \\({'f' * 12}\\), this one is {'e' * 12}; make the edit again for this base"
    )
    with pytest.raises(ValueError, match=text):
        apply_edit(unet, edit, base_fingerprint="e" * 64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("mid_block.nothing.weight", (3, 3), "the base has no parameter mid_block.nothing.weight"),
        ("conv_in.bias", (3,), r"conv_in.bias is \[3\] in the edit and \[16\] in the base"),
    ],
)
def test_an_edit_that_does_not_fit_leaves_the_unet_alone(
    unet: UNet2DConditionModel, edit: Edit, name: str, shape: tuple[int, ...], text: str
) -> None:
    before = state_of(unet)
    unfit = Edit(edit.weights | {name: torch.zeros(shape)}, edit.record)  # the last one of many that do fit
    with pytest.raises(ValueError, match=f"apply_edit: {text}"):
        apply_edit(unet, unfit, base_fingerprint="f" * 64)
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_a_file_without_a_record_is_no_edit(tmp_path: Path, header: dict[str, str] | None) -> None:
    save_file({"conv_in.bias": torch.zeros(3)}, tmp_path / "weights.safetensors", header)
    with pytest.raises(ValueError, match=r"weights\.safetensors: this is no edit \(its header has no 'lethe' record\)"):
        load_edit(tmp_path / "weights.safetensors")
