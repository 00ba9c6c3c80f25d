"""Prompts to what a U-Net reads: the pipeline's own states, and each prompt's whatever the batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer

from conftest import CPU
from emoji_world.models import train_tokenizer
from lethe.bases.pipeline import load_text, text_encoders
from lethe.bases.text import TextEncoders, added_conditions, check_tokens, count_cut, encode_prompts

PROMPTS = ["a photo of the ship", "", "a bird", "x " * 200, "Charles-François Daubigny", "what?! a bird!!"]


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_states_are_those_of_the_pipeline_itself(
    base_folder: Path, base_pipeline: DiffusionPipeline, batch: int
) -> None:
    text, pipeline = load_text(str(base_folder), None, device=CPU, precision="float32"), base_pipeline
    with torch.no_grad():
        each = [
            pipeline.encode_prompt(p, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
            for p in PROMPTS
        ]
    parts = list(encode_prompts(text, PROMPTS, batch=batch))
    assert [len(part) for part in parts] == [len(PROMPTS[k : k + batch]) for k in range(0, len(PROMPTS), batch)]
    states = torch.cat(parts)
    assert states.shape == (6, 77, pipeline.unet.config.cross_attention_dim)
    assert not states.requires_grad
    assert torch.allclose(states, torch.cat([one[0] for one in each]), atol=1e-5)
    assert (states[0] - states[2]).abs().max() > 1e-2  # prompts differ
    added = added_conditions(text, PROMPTS, (24, 32), batch=batch)
    if "XL" in type(pipeline).__name__:
        assert torch.allclose(added["text_embeds"], torch.cat([one[2] for one in each]), atol=1e-5)
        its = pipeline._get_add_time_ids((24, 32), (0, 0), (24, 32), torch.float32, text_encoder_projection_dim=24)
        assert torch.equal(added["time_ids"], its.repeat(6, 1))
        assert (added["text_embeds"][0] - added["text_embeds"][2]).abs().max() > 1e-2
    else:
        assert added == {}


def test_the_text_side_of_a_pipeline_is_the_one_that_loads_alone(
    base_folder: Path, base_pipeline: DiffusionPipeline
) -> None:
    loaded, alone = text_encoders(base_pipeline), load_text(str(base_folder), None, device=CPU, precision="float32")
    assert [type(encoder) for encoder in loaded.encoders] == [type(encoder) for encoder in alone.encoders]
    assert len(loaded.encoders) == len(loaded.tokenizers) == (2 if "XL" in type(base_pipeline).__name__ else 1)
    assert not any(encoder.training for encoder in alone.encoders)
    for mine, its in zip(alone.tokenizers, loaded.tokenizers, strict=True):
        assert mine.model_max_length == its.model_max_length == 77
        assert mine("AC/DC!").input_ids == its("AC/DC!").input_ids
    for mine, its in zip(alone.encoders, loaded.encoders, strict=True):
        assert mine.state_dict().keys() == its.state_dict().keys()
        assert all(torch.equal(tensor, its.state_dict()[name]) for name, tensor in mine.state_dict().items())


def test_encode_prompts_keeps_the_encoders_dtype(base_folder: Path) -> None:
    text = load_text(str(base_folder), None, device=CPU, precision="bfloat16")
    (states,) = encode_prompts(text, PROMPTS)
    assert states.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.bfloat16 for tensor in added_conditions(text, PROMPTS, (32, 32)).values())


def test_encode_prompts_of_nothing_yields_nothing(text: TextEncoders) -> None:
    assert list(encode_prompts(text, [])) == []


def test_prompts_that_two_tokenizers_count_differently_are_refused(tmp_path: Path) -> None:
    one = train_tokenizer(["!!"] * 9, tmp_path, merges=1, window=20)
    two = CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")
    assert (one.pad_token_id, two.pad_token_id) == (one.eos_token_id, 0)
    both = TextEncoders((one, two), ())
    check_tokens(both, ["a ship", "P!nk", "Wham!", "x " * 200])
    with pytest.raises(ValueError, match=r"check_tokens: 'ab!!' is 5 or 6 tokens, .*; write it without '!'"):
        check_tokens(both, ["Wham!", "ab!!"])
    check_tokens(TextEncoders((one,), ()), ["ab!!"])


def test_prompts_longer_than_a_window_are_counted(base_folder: Path) -> None:
    text = load_text(str(base_folder), None, device=CPU, precision="float32")
    short, long = "a photo of the ship", " ".join(["ship"] * 90)
    assert count_cut(text.tokenizers, [short, "", long, short, f"{long} again"]) == 2
    fits = " ".join(["ship"] * 75)  # 77 with start and end
    assert [len(tokenizer(fits)["input_ids"]) for tokenizer in text.tokenizers] == [77] * len(text.tokenizers)
    assert count_cut(text.tokenizers, [fits]) == 0
    assert count_cut(text.tokenizers, [f"{fits} ship"]) == 1
