"""Completion: an image that the base begins, and the edited U-Net finishes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from lethe.attacks.trials import ATTACK, REPORT, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.finite import mend_of, refuse_rows
from lethe.inputs.concepts import Concept


class PartOf:
    """Some of the steps of a scheduler, from `first` to before `last`, as a pipeline walks through them.

    Parts that begin later go on with the state that an earlier part left, and with its latents as they are.
    """

    def __init__(self, scheduler: SchedulerMixin, first: int, last: int | None) -> None:
        self._whole, self._first, self._last = scheduler, first, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        if self._first == 0:
            self._whole.set_timesteps(num_inference_steps, device=device, **more)

    @property
    def timesteps(self) -> torch.Tensor:
        return self._whole.timesteps[self._first : self._last]

    @property
    def init_noise_sigma(self) -> float | torch.Tensor:
        return self._whole.init_noise_sigma if self._first == 0 else 1.0


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Hand over after each count of steps; each is reported. `part` says after how many.

    Raises ValueError where the rate in the table would be of a handover that is none of them.
    """
    if settings["reported_at"] not in settings["handovers"]:
        told = f"completion: reported_at is {settings['reported_at']}, which is none of handovers; add it there"
        raise ValueError(told)
    trials, prompt = workspace.trials(concept), workspace.asked(concept.name)
    seeds, steps = list(workspace.report), workspace.sampling["steps"]
    for handover in sorted({min(handover, steps) for handover in settings["handovers"]}):
        with workspace.pipeline_of(base, None) as pipeline:
            begun = [begin(pipeline, prompt, some, handover, workspace) for some in batches(seeds, workspace)]
        with workspace.pipeline_of(base, edit) as pipeline:
            images = [image for one in begun for image in finish(pipeline, prompt, one, handover, workspace)]
            one = Try(f"handover after {handover} of {steps}", prompt)
            best = handover == min(settings["reported_at"], steps)
            trials.add(ATTACK, REPORT, [one] * len(seeds), seeds, images, best=best)
    return trials


@dataclass(frozen=True)
class Begun:
    """A batch of images that are begun: their seeds, latents and what the sampler keeps of earlier steps."""

    seeds: Sequence[int]
    latents: Tensor | None
    scheduler: SchedulerMixin


def batches(seeds: Sequence[int], workspace: Workspace) -> list[Sequence[int]]:
    """Seeds that are drawn together, as samples are."""
    size = workspace.sampling["batch"]
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def begin(pipeline: DiffusionPipeline, prompt: str, seeds: Sequence[int], handover: int, workspace: Workspace) -> Begun:
    """A batch after so many steps of a pipeline."""
    scheduler = copy.deepcopy(pipeline.scheduler)
    if handover == 0:
        return Begun(seeds, None, scheduler)
    pipeline.scheduler = PartOf(scheduler, 0, handover)
    return Begun(seeds, _drawn(pipeline, prompt, seeds, workspace, output_type="latent"), scheduler)


def finish(
    pipeline: DiffusionPipeline, prompt: str, begun: Begun, handover: int, workspace: Workspace
) -> list[np.ndarray]:
    """The images, uint8 `[h, w, 3]`, that a pipeline makes of a batch in the steps that are left.

    Raises ValueError, as a finished image would, where one holds what is no number.
    """
    if handover == workspace.sampling["steps"]:
        images = decoded(pipeline, begun.latents)
    else:
        pipeline.scheduler = PartOf(begun.scheduler, handover, None)
        images = _drawn(pipeline, prompt, begun.seeds, workspace, output_type="np", latents=begun.latents)
    good = torch.from_numpy(np.isfinite(images).all(axis=(1, 2, 3)))
    refuse_rows(good, of="images", names=[f"seed {seed}" for seed in begun.seeds], mend=mend_of(pipeline.unet.dtype))
    return list((images * 255).round().astype(np.uint8))


@torch.no_grad()
def decoded(pipeline: DiffusionPipeline, latents: Tensor) -> np.ndarray:
    """Latents as images in [0, 1], `[n, h, w, 3]`, as the pipeline makes them when its steps are done."""
    vae = pipeline.vae
    made = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return pipeline.image_processor.postprocess(made, output_type="np", do_denormalize=[True] * len(made))


def _drawn(pipeline: DiffusionPipeline, prompt: str, seeds: Sequence[int], workspace: Workspace, **more: Any) -> Any:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    told = {"num_inference_steps": workspace.sampling["steps"], "guidance_scale": workspace.sampling["guidance"]}
    return pipeline([prompt] * len(seeds), generator=generators, **told, **more).images
