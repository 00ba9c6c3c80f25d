"""The negative prompt: the pipeline draws what diffusers draws with `negative_prompt`, whatever a call says."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import CPU
from guided import as_read, away, by_hand, drawn_by
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline
from lethe.bases.sampling import sample_rows
from lethe.inputs.concepts import Concept
from lethe.methods.negative_prompt import erase, guide

NEGATIVE = "a bird in the sky, a person"


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++", "own"])
def test_it_is_the_negative_prompt_of_diffusers(base_folder: Path, scheduler: str) -> None:
    pipeline = load_pipeline(str(base_folder), None, device=CPU, precision="float32", scheduler=scheduler)
    want, plain = drawn_by(pipeline, steps=4, negative_prompt=NEGATIVE), drawn_by(pipeline, steps=4)
    guide(pipeline, {"text": NEGATIVE})
    assert torch.equal(drawn_by(pipeline, steps=4), want)
    assert away(plain, want) > 1e-3


def test_it_is_the_formula(base_pipeline: DiffusionPipeline) -> None:
    base_pipeline.to(torch.float64)

    def step(number: int, free: Tensor, asked: Tensor, unwanted: Tensor) -> Tensor:
        return unwanted + 4.0 * (asked - unwanted)

    want = by_hand(base_pipeline, NEGATIVE, step, steps=4)
    guide(base_pipeline, {"text": NEGATIVE})
    assert away(drawn_by(base_pipeline, steps=4), want) < 1e-9


def test_a_batch_is_what_diffusers_draws_of_it(base_pipeline: DiffusionPipeline, some_rows: pd.DataFrame) -> None:
    prompts = list(some_rows["prompt"])
    options = dict(num_inference_steps=3, guidance_scale=4.0, output_type="np")

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in some_rows["evaluation_seed"]]

    unwanted = [NEGATIVE] * len(prompts)
    want = base_pipeline(prompts, negative_prompt=unwanted, generator=generators(), **options).images
    guide(base_pipeline, {"text": NEGATIVE})
    for batch in (1, 3, 4):
        got = sample_rows(base_pipeline, some_rows, steps=3, guidance=4.0, batch=batch)
        assert abs(np.stack(got).astype(int) - (want * 255).round().astype(int)).max() <= 1


def test_no_call_gets_around_it(base_pipeline: DiffusionPipeline) -> None:
    want = drawn_by(base_pipeline, steps=3, negative_prompt=NEGATIVE)
    states, added = as_read(base_pipeline, "the ground")
    pooled = {"negative_pooled_prompt_embeds": added["text_embeds"]} if added else {}
    guide(base_pipeline, {"text": NEGATIVE})
    for own in (
        {"negative_prompt": ""},
        {"negative_prompt": "the ground"},
        {"negative_prompt_embeds": states, **pooled},
    ):
        assert torch.equal(drawn_by(base_pipeline, steps=3, **own), want)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_drawing_without_guidance_is_refused(base_pipeline: DiffusionPipeline, scale: float) -> None:
    guide(base_pipeline, {"text": NEGATIVE})
    text = f"negative-prompt: the edit acts through guidance, and this drawing has none (its scale is {scale:g});"
    with pytest.raises(ValueError, match=re.escape(text)):
        drawn_by(base_pipeline, steps=2, scale=scale)


# Settings


def made(sd_folder: Path, names: list[str], text: str | None = None) -> dict:
    base = Base.in_folder(sd_folder, {"variant": None}, device=CPU, precision="float32")
    edit = erase(base, [Concept(name, "object", "ground") for name in names], {"text": text}, {})
    assert (edit.kind, edit.record) == ("negative-prompt", {})
    return edit.settings


def test_an_edit_holds_its_prompt(sd_folder: Path) -> None:
    assert made(sd_folder, ["ship", "bird"]) == {"text": "ship, bird", "phrases_cut": 0}
    assert made(sd_folder, ["ship", "bird"], "a boat") == {"text": "a boat", "phrases_cut": 0}


def test_what_the_window_cuts_is_said(sd_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each "photo" is a token and so is its comma: with the two ends 75 tokens hold 38 phrases."""
    with caplog.at_level(logging.WARNING):
        assert made(sd_folder, ["photo"] * 40)["phrases_cut"] == 2
    assert "negative-prompt: 2 of 40 phrases lie beyond the window of 77 tokens" in caplog.text


def test_settings_that_no_edit_has_are_refused(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="negative-prompt: `text` in the edit must be text; got 7"):
        guide(pipeline, {"text": 7})
    assert "progress_bar" not in vars(pipeline)
