"""Noise between steps: x' = sqrt(a') x0 + sqrt(|1 - a' - (h s)^2|) e + v h s n, with s that of DDIM at eta 1.

Source: arXiv 2505.17013. x0 and e are what the U-Net's prediction says of the latents, n is standard normal. h = 0 is
DDIM without noise, and h = v = 1 with eta 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from lethe.attacks.trials import Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.pipeline import use_scheduler
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept


class Noisy(DDIMScheduler):
    """DDIM whose noise has a scale h and a factor v."""

    h: float = 0.0
    v: float = 1.0

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """One step, with the noise of each row from its own generator."""
        before = timestep - self.config.num_train_timesteps // self.num_inference_steps
        a = self.alphas_cumprod[timestep]
        next_a = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
        if self.config.prediction_type == "epsilon":
            clean = (sample - (1 - a) ** 0.5 * model_output) / a**0.5
            noise = model_output
        else:
            clean = a**0.5 * sample - (1 - a) ** 0.5 * model_output
            noise = a**0.5 * model_output + (1 - a) ** 0.5 * sample
        s = self.h * self._get_variance(timestep, before) ** 0.5
        made = next_a**0.5 * clean + (1 - next_a - s**2).abs() ** 0.5 * noise
        if self.h > 0:
            fresh = randn_tensor(
                model_output.shape, generator=generator, device=model_output.device, dtype=model_output.dtype
            )
            made = made + self.v * s * fresh
        return DDIMSchedulerOutput(made, clean) if return_dict else (made, clean)


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Draw the concept's prompt at every scale and factor; each is reported, the best one by the search marked.

    Without noise there is one drawing, whatever the factor: best of the seeds, as all others are.
    """
    trials, prompt = workspace.trials(concept), workspace.asked(concept.name)
    pairs = dict.fromkeys((h, v if h else 1) for h in settings["scales"] for v in settings["factors"])
    tries = [Try(f"h {h:g}, v {v:g}", prompt, more={"h": h, "v": v}) for h, v in pairs]
    with workspace.pipeline_of(base, edit) as pipeline:
        use_scheduler(pipeline, "ddim")
        scheduler = Noisy.from_config(pipeline.scheduler.config)
        space = replace(workspace, sampling={**workspace.sampling, "steps": settings["steps"]})

        def drawn(pipeline: DiffusionPipeline, tries: Sequence[Try], seeds: Sequence[int]) -> list[np.ndarray]:
            images = []
            for _, group in groupby(zip(tries, seeds, strict=True), key=lambda pair: tuple(pair[0].more.values())):
                some, own = zip(*group, strict=True)
                scheduler.h, scheduler.v = some[0].more["h"], some[0].more["v"]
                pipeline.scheduler = scheduler
                images += space.draw_tries(pipeline, some, own)
            return images

        space.chosen(pipeline, trials, tries, drawn=drawn, every=True)
    return trials
