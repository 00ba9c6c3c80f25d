"""Part of a sampling: latents that a U-Net has denoised for so many steps, and what it predicts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from lethe.bases.text import TextEncoders, added_conditions, encode_prompts

Network = Callable[..., Any]
"""A U-Net, or what is called as one."""


@dataclass(frozen=True)
class Conditions:
    """What a U-Net reads of prompts: `states` `[n, window, d]`, and for SDXL `added`, `[n, ...]` each."""

    states: Tensor
    added: Mapping[str, Tensor]

    def row(self, index: int) -> Conditions:
        """Those of one prompt."""
        return Conditions(self.states[index : index + 1], {k: v[index : index + 1] for k, v in self.added.items()})

    def rows(self, indices: Tensor) -> Conditions:
        """Those of several prompts, `indices` `[n]`, as one batch."""
        return Conditions(self.states[indices], {k: v[indices] for k, v in self.added.items()})

    def joined(self, *others: Conditions) -> Conditions:
        """These, then others, as one batch."""
        every = (self, *others)
        added = {key: torch.cat([one.added[key] for one in every]) for key in self.added}
        return Conditions(torch.cat([one.states for one in every]), added)


@torch.no_grad()
def conditions_of(text: TextEncoders, prompts: Sequence[str], size: Sequence[int]) -> Conditions:
    """What the U-Net reads of prompts for images of `size`, height and width in pixels."""
    states = torch.cat(list(encode_prompts(text, prompts)))
    return Conditions(states, added_conditions(text, prompts, (size[0], size[1])))


def predicted(unet: Network, latents: Tensor, time: Tensor | int, conditions: Conditions) -> Tensor:
    """What the U-Net predicts, for each condition, of the same latents `[1, c, h, w]` or of a row for each.

    `time` is that of all rows, or `[n]`.
    """
    n = len(conditions.states)
    return unet(
        latents.expand(n, *latents.shape[1:]), time, conditions.states, added_cond_kwargs=dict(conditions.added)
    ).sample


def guided(unet: Network, latents: Tensor, time: Tensor | int, pair: Conditions, guidance: float) -> Tensor:
    """Classifier-free guidance over a pair of conditions, the empty prompt's and a prompt's: e_0 + s (e_c - e_0)."""
    empty, asked = predicted(unet, latents, time, pair).chunk(2)
    return empty + guidance * (asked - empty)


@torch.no_grad()
def denoised(
    unet: Network, scheduler: SchedulerMixin, noise: Tensor, pair: Conditions, *, steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """Latents after `steps` of the scheduler's steps (set beforehand), and the timestep that they are at.

    `noise` `[1, c, h, w]` is standard normal; with 0 steps it comes back, at the first timestep.
    """
    latents = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps[:steps]:
        prediction = guided(unet, scheduler.scale_model_input(latents, time), time, pair, guidance)
        latents = scheduler.step(prediction, time, latents).prev_sample
    return latents, scheduler.timesteps[steps]
