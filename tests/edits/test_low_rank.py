"""A projection's change by transform and updates: computed in float64, on the projection's device."""

from __future__ import annotations

import pytest
import torch

from lethe.edits.low_rank import apply
from lethe.erasure.closed_form import refine
from loops import make_case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_apply_computes_in_float64_and_rounds_once(dtype: torch.dtype) -> None:
    case = make_case(14)
    weight, lora = case.weights["layer0"].to(dtype), case.loras[0]["layer0"]
    transform = refine(case.source, case.cross, None, scale=0, ridge=1)
    got = apply(weight, transform, [lora, lora])
    want = weight.double() @ transform + 2 * lora.up @ lora.down
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


def test_apply_follows_the_device_of_the_weights() -> None:
    case = make_case(15)
    got = apply(case.weights["layer0"].to("meta"), torch.eye(5), [case.loras[0]["layer0"]])
    assert got.device.type == "meta"
