"""Pipelines drawn by hand: what a U-Net predicts for each text, called for each by itself, in a loop over the steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

PROMPT = "a photo of the ship on the ground"
SIZES = [32.0, 32.0, 0.0, 0.0, 32.0, 32.0]  # what SDXL reads of a tiny image that is neither resized nor cropped

# Of a step, in float64: its number and the predictions for no prompt, prompt and the method's text, to what the
# scheduler steps with.
Step = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def as_read(pipeline: DiffusionPipeline, text: str) -> tuple[Tensor, dict]:
    """A text's states and what the U-Net reads beside them, as diffusers itself encodes it."""
    read = pipeline.encode_prompt(
        prompt=text, device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if len(read) == 2:
        return read[0], {}
    return read[0], {"text_embeds": read[2], "time_ids": read[0].new_tensor([SIZES])}


def without_prompt(pipeline: DiffusionPipeline) -> tuple[Tensor, dict]:
    """The same where there is no negative prompt: SDXL reads zeros."""
    states, added = as_read(pipeline, "")
    if not added:
        return states, {}
    return torch.zeros_like(states), added | {"text_embeds": torch.zeros_like(added["text_embeds"])}


@torch.no_grad()
def by_hand(
    pipeline: DiffusionPipeline, text: str, step: Step, *, steps: int, seed: int = 3, negative: str | None = None
) -> Tensor:
    """Latents `[1, 4, 8, 8]` of an image of `PROMPT`, drawn with three calls of the U-Net a step."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    free = without_prompt(pipeline) if negative is None else as_read(pipeline, negative)
    branches = [free, as_read(pipeline, PROMPT), as_read(pipeline, text)]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=pipeline.dtype)
    latents = noise * scheduler.init_noise_sigma
    for number, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latents, t)
        made = [
            pipeline.unet(seen, t, encoder_hidden_states=states, added_cond_kwargs=added).sample.double()
            for states, added in branches
        ]
        latents = scheduler.step(step(number, *made).to(latents.dtype), t, latents).prev_sample
    return latents


def drawn_by(pipeline: DiffusionPipeline, *, steps: int, scale: float = 4.0, seed: int = 3, **more: object) -> Tensor:
    """The same, drawn by the pipeline: latents `[1, 4, 8, 8]`."""
    generator = torch.Generator().manual_seed(seed)
    given = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent", **more}
    return pipeline(PROMPT, generator=generator, **given).images


def away(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number of `b`."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def steps_of(pipeline: DiffusionPipeline) -> list[Tensor]:
    """What the scheduler is given to step with, one tensor a step; the list fills while the pipeline draws."""
    given, step = [], pipeline.scheduler.step
    pipeline.scheduler.step = lambda made, *args, **options: (given.append(made.clone()), step(made, *args, **options))[
        1
    ]
    return given
