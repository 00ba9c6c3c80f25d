"""Cross-attention probabilities of chosen tokens, recorded while a U-Net runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor


class RecordingProcessor:
    """Plain attention that also keeps the probabilities of the tokens in `recorder.tokens`."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: object, **kwargs: object
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key)
        self.recorder.keep(probabilities, heads=attn.heads)
        out = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](out))


class Recorder:
    """Holds, after each forward pass, one tensor `[batch, heads, pixels, window]` per cross-attention layer.

    Tokens outside `tokens` (bool `[batch, window]`) are zero, so a norm over the tensor is a norm over the chosen ones.
    """

    def __init__(self) -> None:
        self.layers: list[Tensor] = []
        self.tokens: Tensor | None = None

    def keep(self, probabilities: Tensor, *, heads: int) -> None:
        """Add one layer's probabilities `[batch * heads, pixels, window]`, unless no tokens are chosen."""
        if self.tokens is None:
            return
        split = probabilities.unflatten(0, (-1, heads))
        self.layers.append(split * self.tokens[:, None, None, :].to(split.dtype))


@contextmanager
def recorded_attention(unet: UNet2DConditionModel) -> Iterator[Recorder]:
    """Record cross-attention (`attn2`) while the block runs; the U-Net's own processors come back at its end.

    Set `recorder.tokens` and clear `recorder.layers` before each forward pass; with `tokens` None it records nothing.
    """
    recorder, before = Recorder(), dict(unet.attn_processors)
    recording = {
        name: RecordingProcessor(recorder) if ".attn2." in name else processor for name, processor in before.items()
    }
    unet.set_attn_processor(recording)
    try:
        yield recorder
    finally:
        unet.set_attn_processor(before)
