"""A U-Net in training beside itself as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from conftest import unet_inputs
from lethe.erasure.student import Student


def test_a_student_is_a_copy_with_these_values(base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> None:
    names = [name for name, _ in base_unet.named_parameters()][::3]
    before = {name: value.clone() for name, value in base_unet.state_dict().items()}
    inputs, student = unet_inputs(base_unet, drawn), Student(base_unet, names)
    assert torch.equal(student(**inputs).sample, base_unet(**inputs).sample)
    other = copy.deepcopy(base_unet).requires_grad_(False)
    with torch.no_grad():
        for k, name in enumerate(names):
            change = 0.05 * drawn(*before[name].shape, seed=k).float()
            student.values[name] += change
            other.get_parameter(name).add_(change)
    for name in names:
        other.get_parameter(name).requires_grad_(True)
    assert torch.equal(student(**inputs).sample, other(**inputs).sample)
    assert not torch.equal(student(**inputs).sample, base_unet(**inputs).sample)
    student(**inputs).sample.square().sum().backward()
    other(**inputs).sample.square().sum().backward()
    assert all(torch.equal(student.values[name].grad, other.get_parameter(name).grad) for name in names)
    assert all(parameter.grad is None for parameter in base_unet.parameters())
    assert all(parameter.requires_grad for parameter in base_unet.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base_unet.state_dict().items())
    assert all(torch.equal(weight, other.get_parameter(name)) for name, weight in student.weights().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_too_small_for_half_precision_add_up(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    unet.to(dtype)
    with torch.no_grad():
        unet.get_parameter(name).fill_(1.0)
    student = Student(unet, [name])
    assert student.values[name].dtype == torch.float32
    with torch.no_grad():
        for _ in range(100):
            student.values[name] += 1e-4  # 1.0001 is 1 in half precision
    weights = student.weights()
    assert weights[name].dtype == dtype
    assert weights[name].float().mean().item() == pytest.approx(1.01, abs=5e-3)
