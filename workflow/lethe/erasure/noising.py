"""Images as a U-Net is trained on them: their latents, noised at random times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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

    def noisy(self, which: Tensor, times: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The latents of some images at their times, and the noise in them, `[n, c, h, w]` each."""
        clean = self.latents[which]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return noised(clean, noise, self.alphas, times), noise

    def losses(
        self, unet: Network, conditions: Conditions, which: Tensor, times: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The mean squared error of each row's prediction, float32 `[n]`; noise is drawn from the generator."""
        noisy, noise = self.noisy(which, times, generator)
        wanted = target(self.latents[which], noise, self.alphas, times, self.prediction)
        made = predicted(unet, noisy, times.to(noisy.device), conditions)
        return (made.float() - wanted.float()).square().flatten(1).mean(1)

    def mean_loss(self, unet: Network, condition: Conditions, n: int, generator: torch.Generator) -> Tensor:
        """The mean of `losses` over n images at random times, all with the one prompt of `condition`."""
        which, times = self.drawn(n, generator)
        return self.losses(unet, condition.rows(torch.zeros(n, dtype=torch.long)), which, times, generator).mean()
