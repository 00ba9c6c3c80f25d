"""Per-concept LoRA training: a low-rank update that takes attention away from a concept's words inside its mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from tqdm import trange
from transformers import CLIPTokenizer

from lethe.attention import recorded_attention
from lethe.bases import PROJECTIONS
from lethe.prompts import end_positions, fill, phrase_positions


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is trained; names as in the configuration (`mace.lora`)."""

    rank: int
    steps: int
    learning_rate: float
    batch: int
    use_pooler: bool
    squared_norm: bool
    timesteps: str
    seed: int


def timestep_weights(kind: str, n: int) -> Tensor:
    """Sampling weights of timesteps 0..n-1, `[n]` float64, summing to 1.

    `uniform`, or `importance`: sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)). Source: MACE, Sec. 3.3 (CFIS), for
    n = 1000. Raises ValueError for another kind.
    """
    t = torch.arange(n, dtype=torch.float64)
    if kind == "uniform":
        weights = torch.ones_like(t)
    elif kind == "importance":
        weights = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    else:
        raise ValueError(f"timestep_weights: `kind` must be uniform or importance; got {kind!r}")
    return weights / weights.sum()


def attended_tokens(tokenizer: CLIPTokenizer, templates: Sequence[str], phrase: str, *, use_pooler: bool) -> Tensor:
    """Where the loss looks in the prompts that `templates` make of `phrase`: bool `[templates, window]`.

    The phrase's own tokens and, with `use_pooler`, the end-of-text token and all padding after it, whatever the padding
    is: end-of-text again in Stable Diffusion 1.x and the first encoder of SDXL, '!' in 2.x and the second of SDXL.
    """
    tokens = torch.zeros(len(templates), tokenizer.model_max_length, dtype=torch.bool)
    for row, template in enumerate(templates):
        tokens[row, list(phrase_positions(tokenizer, template, phrase))] = True
        if use_pooler:
            tokens[row, list(end_positions(tokenizer, fill(template, phrase)))] = True
    return tokens


def attention_loss(layers: Sequence[Tensor], masks: Tensor, *, squared: bool) -> Tensor:
    """Sum over layers of the Frobenius norm of the recorded probabilities inside the masks, mean over the batch.

    Args:
        layers: per layer `[b, heads, pixels, window]`, zero outside the chosen tokens.
        masks: bool `[b, h, w]`, of the images; resized to each layer by nearest neighbour.  squared: the paper's form
            (Eq. 4); the published code takes the plain norm.
    Raises: ValueError for a layer whose pixels are not the masks' sides halved, rounded up, some number of times.
    """
    total = masks.new_zeros((), dtype=layers[0].dtype)
    for probabilities in layers:
        size = _halved(*masks.shape[1:], pixels=probabilities.shape[2])
        inside = F.interpolate(masks[:, None].to(probabilities.dtype), size=size).flatten(1)
        kept = probabilities * inside[:, None, :, None]
        # Not the root of the sum of squares: its gradient is NaN where a small mask vanishes in a coarse layer.
        norm = kept.square().sum(dim=(1, 2, 3)) if squared else torch.linalg.vector_norm(kept, dim=(1, 2, 3))
        total = total + norm.mean()
    return total


def _halved(height: int, width: int, *, pixels: int) -> tuple[int, int]:
    """Sides of a layer of so many pixels: autoencoder and U-Net halve an image's sides, rounding up, level by level."""
    size = (height, width)
    while size[0] * size[1] > pixels:
        size = (-(-size[0] // 2), -(-size[1] // 2))
    if size[0] * size[1] != pixels:
        raise ValueError(f"attention_loss: a layer of {pixels} pixels is no halving of masks of {height} x {width}")
    return size


def train_lora(
    unet: UNet2DConditionModel,
    alphas: Tensor,
    latents: Tensor,
    masks: Tensor,
    states: Tensor,
    tokens: Tensor,
    settings: LoraSettings,
    *,
    added: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train a LoRA on `attn2.to_k/to_v` of `unet` (its own weights stay as they are) and take it off again.

    Args:
        alphas: cumulative products of the noise schedule, `[n]`.
        latents: scaled latents of the concept's images, `[k, c, h, w]`.  masks: bool `[k, H, W]`.
        states: text states of the training prompts, `[m, window, d]`.  tokens: bool `[m, window]`, the positions that
            the loss looks at.
        added: what SDXL's U-Net reads beside the states, `[m, ...]` each (`lethe.text.added_conditions`).
    Returns: peft's state dict of the adapter on the CPU, and the loss of each step.
    Raises: FloatingPointError, naming the step, when the loss is not finite.
    Source: MACE, arXiv 2403.06135, Sec. 3.3, Eq. 4; optimiser settings as in the published code.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    weights = timestep_weights(settings.timesteps, len(alphas))
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        unet.add_adapter(
            LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=list(PROJECTIONS)), "concept"
        )
    unet.requires_grad_(False)
    trained = [p.requires_grad_(True) for name, p in unet.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    curve = []
    try:
        with recorded_attention(unet) as recorder:
            for step in trange(settings.steps, desc="LoRA", mininterval=5):
                loss = _step_loss(
                    unet, recorder, alphas, latents, masks, states, tokens, added or {}, weights, settings, generator
                )
                curve.append(loss.item())
                if not math.isfinite(curve[-1]):
                    raise FloatingPointError(
                        f"train_lora: the loss is {curve[-1]} at step {step}; lower mace.lora.learning_rate"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
        state = {
            key: t.detach().cpu().clone() for key, t in get_peft_model_state_dict(unet, adapter_name="concept").items()
        }
    finally:
        unet.unload_lora()
    return state, curve


def _step_loss(
    unet: UNet2DConditionModel,
    recorder: object,
    alphas: Tensor,
    latents: Tensor,
    masks: Tensor,
    states: Tensor,
    tokens: Tensor,
    added: Mapping[str, Tensor],
    weights: Tensor,
    settings: LoraSettings,
    generator: torch.Generator,
) -> Tensor:
    images = torch.randint(len(latents), (settings.batch,), generator=generator)
    prompts = torch.randint(len(states), (settings.batch,), generator=generator)
    times = torch.multinomial(weights, settings.batch, replacement=True, generator=generator)
    noise = torch.randn((settings.batch, *latents.shape[1:]), generator=generator).to(latents)
    alpha = alphas[times].to(latents)[:, None, None, None]
    noisy = alpha.sqrt() * latents[images] + (1 - alpha).sqrt() * noise
    recorder.layers.clear()
    recorder.tokens = tokens[prompts].to(latents.device)
    conditions = {name: rows[prompts] for name, rows in added.items()}
    unet(noisy, times.to(latents.device), states[prompts], added_cond_kwargs=conditions)
    return attention_loss(recorder.layers, masks[images].to(latents.device), squared=settings.squared_norm)


@torch.no_grad()
def encode_images(vae: AutoencoderKL, pixels: Tensor, *, seed: int) -> Tensor:
    """Pixels `[n, 3, H, W]` in [-1, 1] to scaled latents `[n, c, h, w]`, sampled from the posterior with `seed`.

    An autoencoder that overflows in float16 (SDXL's, which says so by `force_upcast`) runs in float32 meanwhile.
    """
    dtype = vae.dtype
    upcast = dtype == torch.float16 and vae.config.force_upcast
    if upcast:
        vae.to(torch.float32)
    try:
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    finally:
        if upcast:
            vae.to(dtype)
    latents = posterior.sample(torch.Generator().manual_seed(seed)) * vae.config.scaling_factor
    return latents.to(dtype)
