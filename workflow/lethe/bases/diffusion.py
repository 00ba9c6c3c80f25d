"""Images to latents, latents with noise, and what a U-Net should predict of them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from lethe.finite import mend_of, require_finite


def noised(clean: Tensor, noise: Tensor, alphas: Tensor, times: Tensor) -> Tensor:
    """Latents `[n, c, h, w]` with noise, each at its time: sqrt(a) clean + sqrt(1 - a) noise.

    alphas: cumulative products of the schedule, `[timesteps]`.  times: `[n]`, whole numbers, on the CPU as `alphas`.
    """
    alpha = alphas[times].to(clean)[:, None, None, None]
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def target(clean: Tensor, noise: Tensor, alphas: Tensor, times: Tensor, prediction: str) -> Tensor:
    """What a U-Net should predict of `noised` latents, `[n, c, h, w]`: the noise, or sqrt(a) noise - sqrt(1 - a) clean.

    `prediction` is what it predicts, `epsilon` or `v_prediction` (arXiv 2202.00512, Appendix D).
    """
    if prediction == "epsilon":
        return noise
    alpha = alphas[times].to(clean)[:, None, None, None]
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


@torch.no_grad()
def encode_images(vae: AutoencoderKL, pixels: Tensor, *, seed: int) -> Tensor:
    """Pixels `[n, 3, H, W]` in [-1, 1] to scaled latents `[n, c, h, w]`, sampled from the posterior with `seed`.

    Images go through the autoencoder one by one, since large ones take gigabytes each. An autoencoder that overflows in
    float16 (SDXL's, which says so by `force_upcast`) runs in float32 meanwhile. Raises ValueError when a latent is not
    finite.
    """
    dtype = vae.dtype
    upcast = dtype == torch.float16 and vae.config.force_upcast
    if upcast:
        vae.to(torch.float32)
    try:
        ones = [vae.encode(one.to(vae.device, vae.dtype)).latent_dist.parameters for one in pixels.split(1)]
    finally:
        if upcast:
            vae.to(dtype)
    posterior = DiagonalGaussianDistribution(torch.cat(ones))
    latents = (posterior.sample(torch.Generator().manual_seed(seed)) * vae.config.scaling_factor).to(dtype)
    require_finite(latents, of="latents of training images", mend=mend_of(dtype))
    return latents
