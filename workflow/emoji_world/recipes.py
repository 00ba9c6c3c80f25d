"""One recipe per model of the emoji world: what a batch is and what its loss measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPSegForImageSegmentation, CLIPTextModel, CLIPTokenizer

from emoji_world.models import MEAN, STD
from emoji_world.renders import Pictures, compose
from emoji_world.training import train
from emoji_world.world import GENERIC, PLACES, PLAIN_TEMPLATES, STYLE_TEMPLATES, World, caption_of
from lethe.bases.pixels import to_pixels
from lethe.erasure.masks import resized


@dataclass(frozen=True)
class Budget:
    """How long a recipe trains: `steps` of `batch` pictures at peak `learning_rate`, seeded by `seed`.

    `checkpoint_every` is in steps; it changes no result.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    checkpoint_every: int = 500


def train_vae(vae: AutoencoderKL, pictures: Pictures, budget: Budget, checkpoint: Path) -> list[tuple[int, float]]:
    """L1 + L2 + image-gradient reconstruction loss and a faint KL term; then set `scaling_factor` to 1 / latent std."""
    vae.to(memory_format=torch.channels_last)

    def loss_of_batch(rng: np.random.Generator) -> Tensor:
        x = to_pixels(pictures.images[rng.integers(len(pictures.images), size=budget.batch)])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        return F.l1_loss(y, x) + F.mse_loss(y, x) + edges + 1e-6 * posterior.kl().mean() / x[0].numel()

    curve = train({"vae": vae}, loss_of_batch, checkpoint=checkpoint, **budget_settings(budget))
    vae.register_to_config(scaling_factor=1 / encode(vae, pictures.images[:1024]).std().item())
    return curve


def train_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    latents: Tensor,
    pictures: Pictures,
    world: World,
    budget: Budget,
    checkpoint: Path,
) -> list[tuple[int, float]]:
    """Noise prediction on scaled latents `[n, 4, 16, 16]`, U-Net and text encoder together, min-SNR-5 weighted.

    Weighting: min(SNR, 5) / SNR for noise prediction (arXiv 2303.09556, Sec. 3.4).
    """
    unet.to(memory_format=torch.channels_last)
    alphas = scheduler.alphas_cumprod
    weights = (alphas / (1 - alphas)).clamp(max=5) / (alphas / (1 - alphas))

    def loss_of_batch(rng: np.random.Generator) -> Tensor:
        rows = rng.integers(len(latents), size=budget.batch)
        captions = [caption_of(world, pictures.things[row], pictures.styles[row], rng) for row in rows]
        times = torch.from_numpy(rng.integers(len(alphas), size=budget.batch))
        clean = latents[rows]
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, times)
        states = text_encoder(token_ids(tokenizer, captions)).last_hidden_state
        errors = (unet(noisy, times, states).sample - noise).square().mean(dim=(1, 2, 3))
        return (weights[times] * errors).mean()

    modules = {"unet": unet, "text_encoder": text_encoder}
    return train(modules, loss_of_batch, checkpoint=checkpoint, **budget_settings(budget))


def train_clip(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Pictures, world: World, budget: Budget, checkpoint: Path
) -> list[tuple[int, float]]:
    """Contrastive loss in which every caption of a batch that fits an image counts as its positive.

    A caption fits when it names the image's object (or place, or nothing more than its category) and, if it names a
    style, that style. Pictures are blurred at random, so that soft samples are judged by what they show.
    """
    groups = [thing.category for thing in world.things]

    def loss_of_batch(rng: np.random.Generator) -> Tensor:
        rows = rng.integers(len(pictures.images), size=budget.batch)
        things, styles = pictures.things[rows], pictures.styles[rows]
        captions, named, named_styles = [], [], []
        for thing, style in zip(things, styles, strict=True):
            caption, fits, named_style = _judged_caption(world, groups, thing, style, rng)
            captions.append(caption)
            named.append(fits)
            named_styles.append(named_style)
        positive = np.array([[thing in fits for fits in named] for thing in things])
        positive &= (np.array(named_styles)[None] == styles[:, None]) | (np.array(named_styles)[None] < 0)
        fit = torch.from_numpy(positive).float()
        x = softened(to_pixels(pictures.images[rows]), rng)
        output = clip(input_ids=token_ids(tokenizer, captions), pixel_values=normalise(x))
        per_image = -(F.log_softmax(output.logits_per_image, dim=1) * fit).sum(1) / fit.sum(1)
        per_text = -(F.log_softmax(output.logits_per_text, dim=1) * fit.T).sum(1) / fit.T.sum(1)
        return (per_image.mean() + per_text.mean()) / 2

    return train({"clip": clip}, loss_of_batch, checkpoint=checkpoint, **budget_settings(budget))


def train_clipseg(
    clipseg: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    world: World,
    budget: Budget,
    checkpoint: Path,
) -> list[tuple[int, float]]:
    """Binary cross-entropy of the named object's mask in scenes of one or two; 1 prompt in 5 names an absent one."""

    def loss_of_batch(rng: np.random.Generator) -> Tensor:
        scenes = [draw_scene(icons, rng) for _ in range(budget.batch)]
        prompts, targets = [], []
        for _, masks, things in scenes:
            shown = int(rng.integers(len(things)))
            if rng.random() < 0.2:
                absent = [k for k in range(len(world.things)) if k not in things]
                thing, target = int(rng.choice(absent)), np.zeros_like(masks[0])
            else:
                thing, target = things[shown], masks[shown]
            words = world.things[thing].words
            word = words[0] if rng.random() < 0.6 else words[int(rng.integers(len(words)))]
            prompts.append(word if rng.random() < 0.5 else PLAIN_TEMPLATES[int(rng.integers(8))].format(word))
            targets.append(target)
        x = softened(to_pixels(np.stack([scene[0] for scene in scenes])), rng)
        logits = clipseg(input_ids=token_ids(tokenizer, prompts), pixel_values=normalise(x)).logits
        logits = resized(logits, x.shape[2:])
        return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(np.stack(targets)).float())

    return train({"clipseg": clipseg}, loss_of_batch, checkpoint=checkpoint, **budget_settings(budget))


def draw_scene(icons: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """One object, or two at half size side by side: image `[64, 64, 3]` uint8, a bool mask each, their indices."""
    if rng.random() < 0.5:
        thing, style = int(rng.integers(icons.shape[0])), int(rng.integers(icons.shape[1]))
        image, mask = compose(icons[thing, style], rng)
        return image, [mask], [thing]
    things = [int(k) for k in rng.choice(icons.shape[0], 2, replace=False)]
    image, _ = compose(icons[things[0], 0], rng)
    image = np.full_like(image, image[0, 0])
    masks = []
    for side, thing in enumerate(things):
        tile, mask = compose(icons[thing, int(rng.integers(icons.shape[1]))], rng)
        tile, mask = tile[::2, ::2], mask[::2, ::2]
        top = int(rng.integers(0, 33))
        whole = np.zeros(image.shape[:2], bool)
        whole[top : top + 32, 32 * side : 32 * side + 32] = mask
        image[whole] = tile[mask]
        masks.append(whole)
    return image, masks, things


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels / 2 + 0.5 - mean) / std


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions to int64 `[n, window]`, padded and cut to the tokenizer's window."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, *, batch: int = 64) -> Tensor:
    """Posterior means of uint8 images `[n, h, w, 3]`, unscaled: float32 `[n, 4, h/4, w/4]`."""
    parts = [vae.encode(to_pixels(images[i : i + batch])).latent_dist.mean for i in range(0, len(images), batch)]
    return torch.cat(parts).contiguous()


def _judged_caption(
    world: World, groups: list[str], thing: int, style: int, rng: np.random.Generator
) -> tuple[str, set[int], int]:
    if thing < 0:
        return PLAIN_TEMPLATES[int(rng.integers(8))].format(PLACES[thing]), {thing}, -1
    fits, draw = {int(thing)}, rng.random()
    if draw < 0.65:
        word = world.things[thing].name
    elif draw < 0.92:
        word = world.things[thing].synonyms[int(rng.integers(len(world.things[thing].synonyms)))]
    elif draw < 0.97:
        word, fits = groups[thing], {k for k, group in enumerate(groups) if group == groups[thing]}
    else:
        word, fits = GENERIC[int(rng.integers(len(GENERIC)))], set(range(len(groups)))
    if rng.random() < 0.5:
        template = STYLE_TEMPLATES[int(rng.integers(len(STYLE_TEMPLATES)))]
        return template.format(word, world.styles[style].name), fits, int(style)
    return PLAIN_TEMPLATES[int(rng.integers(len(PLAIN_TEMPLATES)))].format(word), fits, -1


def softened(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pixels `[n, 3, 64, 64]` as they are or, every other time, shrunk, enlarged again and a little noisy."""
    if rng.random() < 0.5:
        return pixels
    smaller = int(rng.integers(28, 60))
    pixels = F.interpolate(pixels, size=(smaller, smaller), mode="bilinear", antialias=True)
    return F.interpolate(pixels, size=(64, 64), mode="bilinear") + 0.03 * torch.randn(1, 3, 64, 64)


def budget_settings(budget: Budget) -> dict:
    """A budget as arguments of `train`; the batch is the recipe's own."""
    return dict(
        steps=budget.steps,
        learning_rate=budget.learning_rate,
        seed=budget.seed,
        checkpoint_every=budget.checkpoint_every,
    )
