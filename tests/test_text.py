"""Prompts to text states: whatever the batches, each prompt's states are those of the prompt alone."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from lethe.text import encode_prompts

PROMPTS = ["a photo of the ship", "", "a bird", "x " * 200, "Charles-François Daubigny"]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_encode_prompts_equals_one_prompt_at_a_time(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, batch: int
) -> None:
    parts = list(encode_prompts(tokenizer, text_encoder, PROMPTS, batch=batch))
    assert [len(part) for part in parts] == [len(PROMPTS[k : k + batch]) for k in range(0, len(PROMPTS), batch)]
    states = torch.cat(parts)
    assert states.shape == (5, 77, 32)
    assert not states.requires_grad
    for prompt, state in zip(PROMPTS, states, strict=True):
        tokens = tokenizer(prompt).input_ids
        tokens = (tokens if len(tokens) <= 77 else tokens[:76] + tokens[-1:]) + [tokenizer.pad_token_id] * 77
        with torch.no_grad():
            want = text_encoder(torch.tensor([tokens[:77]])).last_hidden_state[0]
        assert torch.allclose(state, want, atol=1e-5)
    assert (states[0] - states[2]).abs().max() > 1e-2  # prompts differ


def test_encode_prompts_keeps_the_encoders_dtype(tokenizer: CLIPTokenizer, sd_folder) -> None:
    encoder = CLIPTextModel.from_pretrained(sd_folder / "text_encoder", dtype=torch.bfloat16)
    (states,) = encode_prompts(tokenizer, encoder, PROMPTS)
    assert states.dtype == torch.bfloat16


def test_encode_prompts_of_nothing_yields_nothing(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
    assert list(encode_prompts(tokenizer, text_encoder, [])) == []
