"""Latents part of the way: those of the pipeline itself at that step."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from lethe.bases.denoising import Conditions, denoised
from lethe.bases.pipeline import text_encoders, use_scheduler
from lethe.bases.text import added_conditions, encode_prompts

STEPS = 5


@pytest.mark.parametrize("done", [0, 1, 3])
def test_latents_are_those_of_the_pipeline(base_pipeline: DiffusionPipeline, done: int) -> None:
    use_scheduler(base_pipeline, "ddim")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[int, Tensor]] = []

    def note(pipeline: DiffusionPipeline, step: int, time: Tensor, held: dict) -> dict:
        seen.append((int(time), held["latents"].clone()))
        return held

    base_pipeline(
        "a photo of the ship",
        negative_prompt="",  # XL's pipeline takes zeros for one that it is not given
        latents=noise.clone(),
        guidance_scale=3.0,
        num_inference_steps=STEPS,
        output_type="latent",
        callback_on_step_end=note,
    )
    text = text_encoders(base_pipeline)
    states = torch.cat(list(encode_prompts(text, ["", "a photo of the ship"])))
    added = added_conditions(text, ["", "a photo of the ship"], (32, 32))
    scheduler = DDIMScheduler.from_config(base_pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    latents, time = denoised(base_pipeline.unet, scheduler, noise, Conditions(states, added), steps=done, guidance=3.0)
    assert int(time) == seen[done][0]
    assert torch.allclose(latents, noise if done == 0 else seen[done - 1][1], rtol=1e-4, atol=1e-4)
