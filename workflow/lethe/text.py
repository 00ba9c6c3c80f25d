"""Prompts to text-encoder states, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


@torch.no_grad()
def encode_prompts(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: Sequence[str], *, batch: int = 64
) -> Iterator[Tensor]:
    """Yield the last hidden states of `prompts`, `[<= batch, window, d]`, on the encoder's device and in its dtype.

    These are the states Stable Diffusion 1.x and 2.x condition on: every position up to the window, padding included.
    """
    for start in range(0, len(prompts), batch):
        ids = tokenizer(
            list(prompts[start : start + batch]), padding="max_length", truncation=True, return_tensors="pt"
        )
        yield encoder(ids.input_ids.to(encoder.device)).last_hidden_state
