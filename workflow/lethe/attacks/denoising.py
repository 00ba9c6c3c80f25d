"""How well a U-Net denoises images of a concept while it reads a prompt: what attacks by gradient lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.denoising import Conditions, Network, predicted
from lethe.bases.diffusion import encode_images, noised, target
from lethe.bases.pixels import to_pixels
from lethe.bases.schedulers import training_schedule


@dataclass(frozen=True)
class Pictures:
    """Latents of images `[n, c, h, w]`, how a base noises them, what its U-Net predicts, and their size in pixels."""

    latents: Tensor
    alphas: Tensor
    prediction: str
    size: tuple[int, int]

    @classmethod
    def of(cls, base: Base, images: Sequence[np.ndarray], *, seed: int) -> Pictures:
        """Those of images, uint8 `[h, w, 3]`. Raises ValueError for a base that no image is noised for by timesteps."""
        alphas, prediction = training_schedule(base.pipeline.scheduler)
        latents = encode_images(base.pipeline.vae, to_pixels(images), seed=seed)
        return cls(latents, alphas, prediction, np.shape(images[0])[:2])

    def drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which images, and times, `[n]` each, at random."""
        which = torch.randint(len(self.latents), (n,), generator=generator)
        return which, torch.randint(len(self.alphas), (n,), generator=generator)

    def losses(
        self, unet: Network, conditions: Conditions, which: Tensor, times: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The mean squared error of each row's prediction, float32 `[n]`; noise is drawn from the generator."""
        clean = self.latents[which]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy = noised(clean, noise, self.alphas, times)
        wanted = target(clean, noise, self.alphas, times, self.prediction)
        made = predicted(unet, noisy, times.to(clean.device), conditions)
        return (made.float() - wanted.float()).square().flatten(1).mean(1)


def images_of(base: Base, phrase: str, count: int, workspace: Workspace, *, first_seed: int) -> list[np.ndarray]:
    """Images of a phrase by the base as it is, with seeds from `first_seed` on."""
    with workspace.pipeline_of(base, None) as pipeline:
        prompts = [workspace.asked(phrase)] * count
        return workspace.draw(pipeline, prompts, range(first_seed, first_seed + count))


def sizes_of(base: Base, size: Sequence[int], n: int) -> Mapping[str, Tensor]:
    """What SDXL reads of a picture's size beside a prompt, in n rows; nothing for bases with one encoder."""
    if len(base.text.encoders) == 1:
        return {}
    like = next(base.text.encoders[-1].parameters())
    return {"time_ids": like.new_tensor([*size, 0, 0, *size]).repeat(n, 1)}


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """While the block runs, no parameter of a network has a gradient."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
