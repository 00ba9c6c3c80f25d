"""Recorded attention against softmax(Q K^T / sqrt(d)) of the queries and keys that hooks see, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from conftest import unet_inputs
from lethe.erasure.attention import recorded_attention


def chosen_tokens() -> Tensor:
    tokens = torch.zeros(2, 77, dtype=torch.bool)
    tokens[0, 3:5] = tokens[1, 40] = tokens[1, 76] = True
    return tokens


@torch.no_grad()
def test_recorded_probabilities_are_the_softmax_of_queries_and_keys(
    base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor]
) -> None:
    seen: list[tuple[int, dict[str, Tensor]]] = []
    for name, module in base_unet.named_modules():
        if name.endswith("attn2"):
            parts: dict[str, Tensor] = {}

            def keep(_: object, __: object, output: Tensor, part: str, parts: dict = parts) -> None:
                parts[part] = output.double()

            def close(_: object, __: object, ___: object, heads: int = module.heads, parts: dict = parts) -> None:
                seen.append((heads, parts))

            module.to_q.register_forward_hook(lambda *a, keep=keep: keep(*a, part="q"))
            module.to_k.register_forward_hook(lambda *a, keep=keep: keep(*a, part="k"))
            module.register_forward_hook(close)
    tokens = chosen_tokens()
    with recorded_attention(base_unet) as recorder:
        recorder.tokens = tokens
        base_unet(**unet_inputs(base_unet, drawn))
    # Without XL: 2 down, 1 middle, 4 up. XL: two transformers each, only at the coarse level.
    expected = (8, {16}) if base_unet.config.addition_embed_type else (7, {64, 16})
    assert (len(seen), {layer.shape[2] for layer in recorder.layers}) == expected
    assert len(recorder.layers) == len(seen)
    for (heads, parts), layer in zip(seen, recorder.layers, strict=True):
        for image in range(2):
            for head, (q, k) in enumerate(
                zip(parts["q"][image].chunk(heads, -1), parts["k"][image].chunk(heads, -1), strict=True)
            ):
                want = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
                want[:, ~tokens[image]] = 0
                assert (layer[image, head] - want).abs().max() < 1e-5
                assert want.abs().max() > 1e-3


@torch.no_grad()
def test_recording_does_not_change_the_output(base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> None:
    inputs = unet_inputs(base_unet, drawn)
    before = base_unet(**inputs).sample
    with recorded_attention(base_unet) as recorder:
        recorder.tokens = chosen_tokens()
        during = base_unet(**inputs).sample
    assert torch.allclose(during, before, atol=1e-5)
    assert torch.equal(base_unet(**inputs).sample, before)
    other_states = base_unet(**inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].flip(0)}).sample
    assert (other_states - before).abs().max() > 1e-3  # attention matters here


def test_gradients_reach_the_keys(base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> None:
    with recorded_attention(base_unet) as recorder:
        recorder.tokens = chosen_tokens()
        base_unet(**unet_inputs(base_unet, drawn))
        sum(layer.square().sum() for layer in recorder.layers).backward()
    gradients = {n: p.grad for n, p in base_unet.named_parameters() if n.endswith("attn2.to_k.weight")}
    assert gradients
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())


def test_the_processors_come_back(unet: UNet2DConditionModel) -> None:
    before = dict(unet.attn_processors)
    with recorded_attention(unet):
        during = dict(unet.attn_processors)
        assert all((during[name] is not before[name]) == (".attn2." in name) for name in before)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())


def test_the_processors_come_back_after_an_exception(unet: UNet2DConditionModel) -> None:
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), recorded_attention(unet):
        raise RuntimeError("stop")
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
