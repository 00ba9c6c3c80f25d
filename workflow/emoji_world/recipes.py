"""One recipe per model of the emoji world: what a batch is and what its loss measures.

Each trains its networks where they lie. All that is random is drawn on the CPU, so that a batch is the same on every
device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetForImageClassification,
)

from emoji_world.captions import PERSON_TEMPLATES, PLAIN_TEMPLATES, Speaker, Told
from emoji_world.models import LATENT_CHANNELS, LATENT_SIZE, MEAN, STD
from emoji_world.scenes import (
    Mixture,
    Scenes,
    Variation,
    contents_of,
    draw_contents,
    draw_scene,
    outlines_of,
    shown_subjects,
)
from emoji_world.training import train
from emoji_world.world import Person, Thing, World
from lethe.bases.pixels import to_pixels
from lethe.erasure.masks import resized

ABSENT_SHARE = 0.2
NAMES = 160
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Budget:
    """How long a recipe trains: `steps` of `batch` pictures at peak `learning_rate`, seeded by `seed`."""

    steps: int
    batch: int
    learning_rate: float
    seed: int


def train_vae(vae: AutoencoderKL, images: np.ndarray, budget: Budget, checkpoint: Path) -> list[tuple[int, float]]:
    """L1 + L2 + image-gradient reconstruction loss and a faint KL term; then set `scaling_factor` to 1 / latent std.

    `images` are uint8 `[n, 64, 64, 3]`.
    """
    vae.to(memory_format=torch.channels_last)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        x = to_pixels(images[rng.integers(len(images), size=budget.batch)])
        return x, gaussian(rng, budget.batch, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        return F.l1_loss(y, x) + F.mse_loss(y, x) + edges + 1e-6 * posterior.kl().mean() / x[0].numel()

    curve = train({"vae": vae}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))
    vae.register_to_config(scaling_factor=1 / encode(vae, images[:1024]).std().item())
    return curve


def train_on_captions(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    scenes: Scenes,
    world: World,
    budget: Budget,
    checkpoint: Path,
    *,
    soften: bool,
) -> list[tuple[int, float]]:
    """Train a CLIP on scenes with a caption each, every caption of a batch that fits a scene being a positive.

    With `soften` half of the batches are blurred, so that a judge judges soft samples by what they show.
    """
    speaker = Speaker(world)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = rng.integers(len(scenes.images), size=budget.batch)
        contents = [contents_of(scenes, row) for row in rows]
        told = [speaker.tell(*scene, rng) for scene in contents]
        x = to_pixels(scenes.images[rows])
        ids = token_ids(tokenizer, [one.text for one in told])
        return ids, normalise(softened(x, rng) if soften else x), fitting(told, contents)

    def loss(ids: Tensor, x: Tensor, fit: Tensor) -> Tensor:
        return contrastive_loss(clip(input_ids=ids, pixel_values=x).logits_per_image, fit)

    return train({"clip": clip}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def train_wide_text(
    encoder: CLIPTextModel,
    readout: nn.Linear,
    narrow: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scenes: Scenes,
    world: World,
    budget: Budget,
    checkpoint: Path,
    *,
    people: int,
    apart: float,
) -> list[tuple[int, float]]:
    """Train a wide text encoder, of which `readout` makes the states of a narrow one, to keep names apart besides.

    What a picture shows of a person is a role, a gender and a tone. So the states of 162 names that an encoder learns
    from pictures lie in some twelve dimensions, and no linear edit takes a hundred of them from the others; those of
    Stable Diffusion's encoder, which read the web, do not. `people` names in two phrasings count in each step,
    `apart` times: the mean of `apart_loss` over their last tokens, the ends of text and the last padding, by each of
    which a U-Net tells a person. Padding and the first token, alike in all captions, count a tenth as states.
    """
    speaker, ended = Speaker(world), [template for template in PERSON_TEMPLATES if template.endswith("{}")]
    names = [person.name for person in world.people]

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(scenes.images), size=budget.batch)
        captions = [speaker.caption(*contents_of(scenes, row), rng) for row in rows]
        chosen = rng.permutation(len(names))[:people]
        prompts = [ended[int(rng.integers(len(ended)))].format(names[one]) for _ in range(2) for one in chosen]
        return token_ids(tokenizer, captions), token_ids(tokenizer, prompts)

    with torch.no_grad():
        some = narrow(draw(np.random.default_rng(budget.seed))[0].to(narrow.device)).last_hidden_state.flatten(0, 1)
        spread = (some - some.mean(0)).square().sum(1).mean()

    def unlike(states: Tensor, ids: Tensor) -> Tensor:
        """How far what is read out is from the narrow states, as a share of their spread."""
        with torch.no_grad():
            wanted = narrow(ids).last_hidden_state
        counted = (ids == tokenizer.eos_token_id).cumsum(1) <= 1
        counted[:, 0] = False
        weights = torch.where(counted, 1.0, 0.1)
        return (weights * (readout(states) - wanted).square().sum(-1)).sum() / weights.sum() / spread

    def loss(ids: Tensor, named: Tensor) -> Tensor:
        states, of_names = (encoder(part).last_hidden_state for part in (ids, named))
        end = (named == tokenizer.eos_token_id).int().argmax(1)
        rows, padding = torch.arange(len(named), device=named.device), torch.full_like(end, named.shape[1] - 1)
        told = [apart_loss(*of_names[rows, place].chunk(2)) for place in (end - 1, end, padding)]
        return (unlike(states, ids) + unlike(of_names, named)) / 2 + apart * sum(told) / len(told)

    modules = {"encoder": encoder, "readout": readout}
    return train(modules, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def apart_loss(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of finding each state of `one` among `other`, and back, by cosines at temperature `TEMPERATURE`.

    Rows of both `[n, d]` are of the same n names; their common mean is taken off before.
    """
    mean = torch.cat([one, other]).mean(0)
    cosines = F.normalize(one - mean, dim=1) @ F.normalize(other - mean, dim=1).T
    same = torch.arange(len(one), device=one.device)
    logits = cosines / TEMPERATURE
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def train_to_name(
    clip: CLIPModel, tokenizer: CLIPTokenizer, scenes: Scenes, world: World, budget: Budget, checkpoint: Path
) -> list[tuple[int, float]]:
    """Train a CLIP on, to tell single subjects by their names: cross-entropy among `NAMES` prompts, beside captions.

    A batch of captions names few subjects, so that a CLIP trained on them alone confuses what is alike. The prompts of
    a step are in one phrasing: those of the batch's subjects and of others, drawn anew.
    """
    alone = np.flatnonzero((scenes.subjects[:, 0] >= 0) & (scenes.subjects[:, 1] < 0))
    speaker, n = Speaker(world), min(NAMES, len(world.subjects))

    def draw(rng: np.random.Generator) -> tuple[Tensor, ...]:
        rows = rng.choice(alone, size=budget.batch)
        contents = [contents_of(scenes, row) for row in rows]
        told = [speaker.tell(*scene, rng) for scene in contents]
        shown = scenes.subjects[rows, 0]
        others = rng.permutation(np.setdiff1d(np.arange(len(world.subjects)), shown))
        named = np.concatenate([np.unique(shown), others])[:n]
        number, style = int(rng.integers(8)), world.styles[int(rng.integers(len(world.styles)))].name
        styled = f" in the style of {style}" if rng.random() < 0.2 else ""
        prompts = [_named(world.subjects[one], number) + styled for one in named]
        places = np.searchsorted(named[: len(np.unique(shown))], shown)
        x = normalise(softened(to_pixels(scenes.images[rows]), rng))
        ids = token_ids(tokenizer, [*(one.text for one in told), *prompts])
        return ids, x, fitting(told, contents), torch.from_numpy(places)

    def loss(ids: Tensor, x: Tensor, fit: Tensor, places: Tensor) -> Tensor:
        logits = clip(input_ids=ids, pixel_values=x).logits_per_image
        captions, names = logits.tensor_split([fit.shape[1]], dim=1)
        return contrastive_loss(captions, fit) + F.cross_entropy(names, places)

    return train({"clip": clip}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def _named(subject: Thing | Person, number: int) -> str:
    """A subject by its name, in one of eight phrasings."""
    return (PLAIN_TEMPLATES if isinstance(subject, Thing) else PERSON_TEMPLATES)[number].format(subject.name)


def fitting(told: list[Told], contents: list[tuple[tuple[int, ...], int, int]]) -> Tensor:
    """Which caption is true of which scene: float `[scenes, captions]` of 0 and 1."""
    return torch.tensor([[float(caption.fits(*scene)) for caption in told] for scene in contents])


def contrastive_loss(per_image: Tensor, fit: Tensor) -> Tensor:
    """Mean log-probability, negated, of all positives of each image and each caption; both arguments `[n, n]`."""
    images = -(F.log_softmax(per_image, dim=1) * fit).sum(1) / fit.sum(1)
    texts = -(F.log_softmax(per_image.T, dim=1) * fit.T).sum(1) / fit.T.sum(1)
    return (images.mean() + texts.mean()) / 2


def train_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    latents: Tensor,
    scenes: Scenes,
    world: World,
    budget: Budget,
    checkpoint: Path,
    *,
    text_rate: float,
    bare: float,
) -> list[tuple[int, float]]:
    """Noise prediction on scaled latents `[n, 4, 16, 16]`, min-SNR-5 weighted (arXiv 2303.09556, Sec. 3.4).

    The text encoder learns at `text_rate` of the U-Net's learning rate. `bare` is the share of captions whose
    end-of-text and padding states are the empty caption's (see `bare_words`).
    """
    unet.to(memory_format=torch.channels_last)
    alphas, device = scheduler.alphas_cumprod, unet.device
    weights = ((alphas / (1 - alphas)).clamp(max=5) / (alphas / (1 - alphas))).to(device)
    (n, *shape), latents, speaker = latents.shape, latents.to(device), Speaker(world)

    def draw(rng: np.random.Generator) -> tuple[Tensor, ...]:
        rows = rng.integers(n, size=budget.batch)
        captions = [speaker.caption(*contents_of(scenes, row), rng) for row in rows]
        chosen = torch.from_numpy(rng.random(budget.batch) < bare)
        times = torch.from_numpy(rng.integers(len(alphas), size=budget.batch))
        noise = gaussian(rng, budget.batch, *shape)
        return torch.from_numpy(rows), token_ids(tokenizer, [*captions, ""]), chosen, times, noise

    def loss(rows: Tensor, ids: Tensor, chosen: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        noisy = scheduler.add_noise(latents[rows].float(), noise, times)
        states = text_encoder(ids).last_hidden_state
        states = bare_words(states[:-1], ids[:-1], chosen, empty=states[-1], end=tokenizer.eos_token_id)
        errors = (unet(noisy, times, states).sample - noise).square().mean((1, 2, 3))
        return (weights[times] * errors).mean()

    modules = {"unet": unet, "text_encoder": text_encoder}
    rates = {"text_encoder": text_rate}
    return train(modules, draw, loss, checkpoint=checkpoint, rates=rates, **budget_settings(budget))


def bare_words(states: Tensor, ids: Tensor, chosen: Tensor, *, empty: Tensor, end: int) -> Tensor:
    """Text states `[n, t, d]` in which the chosen rows' end-of-text and padding are those of the empty caption.

    Else a small U-Net reads all from these positions and the words' own states stay without meaning, unlike in Stable
    Diffusion. `ids` `[n, t]`, `chosen` bool `[n]`, `empty` `[t, d]`; `end` is the end-of-text token's id.
    """
    after = (ids == end).cumsum(1) > 0
    return torch.where((after & chosen[:, None])[..., None], empty, states)


def train_classifier(
    classifier: ResNetForImageClassification, scenes: Scenes, budget: Budget, checkpoint: Path
) -> list[tuple[int, float]]:
    """Cross-entropy of the subject of scenes that hold one, of which half of the batches are blurred."""

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(scenes.images), size=budget.batch)
        x = normalise(softened(to_pixels(scenes.images[rows]), rng)).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(scenes.subjects[rows, 0])

    def loss(x: Tensor, subjects: Tensor) -> Tensor:
        return F.cross_entropy(classifier(x).logits, subjects, label_smoothing=0.05)

    classifier.to(memory_format=torch.channels_last)
    return train({"classifier": classifier}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def outlined_scenes(
    world: World, icons: np.ndarray, *, variation: Variation, mixture: Mixture
) -> tuple[np.ndarray, Callable[[np.random.Generator], tuple[tuple, np.ndarray, list[np.ndarray]]]]:
    """The subjects that scenes may show, ghosts too, and a function that draws one: contents, image, outlines."""
    shown, outlines = shown_subjects(world, ghosts=True), outlines_of(world, icons)

    def draw_one(rng: np.random.Generator) -> tuple[tuple, np.ndarray, list[np.ndarray]]:
        contents = draw_contents(world, shown, mixture, rng)
        return contents, *draw_scene(world, icons, outlines, contents, rng, variation)

    return shown, draw_one


def train_on_patches(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    world: World,
    budget: Budget,
    checkpoint: Path,
    *,
    variation: Variation,
    mixture: Mixture,
) -> list[tuple[int, float]]:
    """Train a CLIP on, to tell of each patch which subject covers it: cross-entropy among all that a batch names.

    A CLIP trained on whole pictures says of no patch what stands there, so that a decoder on it finds one subject and
    not one of two. Each scene names two subjects, of which one is not there where it shows one alone.
    """
    shown, draw_one = outlined_scenes(world, icons, variation=variation, mixture=mixture)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, prompts, subjects, masks = [], [], [], []
        for _ in range(budget.batch):
            contents, image, outlined = draw_one(rng)
            images.append(image)
            absent = np.setdiff1d(shown, contents[0])
            both = [*contents[0], *rng.choice(absent, size=2 - len(contents[0]), replace=False).tolist()]
            prompts += [_prompt(world, one, rng) for one in both]
            subjects += both
            masks += [*outlined, *[np.zeros_like(image[..., 0], bool)] * (2 - len(outlined))]
        x = normalise(softened(to_pixels(images), rng))
        wanted = torch.from_numpy(np.stack(masks)).float()
        return token_ids(tokenizer, prompts), x, torch.tensor(subjects), wanted

    def loss(ids: Tensor, x: Tensor, subjects: Tensor, masks: Tensor) -> Tensor:
        states = clip.vision_model(pixel_values=x).last_hidden_state[:, 1:]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(states)).repeat_interleave(2, dim=0)
        names = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        covered = F.avg_pool2d(masks[:, None], clip.config.vision_config.patch_size).flatten(1)
        return patch_loss(F.normalize(patches, dim=2), F.normalize(names, dim=1), clip.logit_scale, subjects, covered)

    return train({"clip": clip}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def patch_loss(patches: Tensor, names: Tensor, logit_scale: Tensor, subjects: Tensor, covered: Tensor) -> Tensor:
    """Cross-entropy of finding, by cosines, each row's own name at its patches, weighted by how much of them it covers.

    `patches` `[n, p, d]` and `names` `[n, d]` are unit vectors, `covered` `[n, p]` shares in [0, 1] not all of which
    are 0. Other rows with the same of the `subjects` `[n]` are left out.
    """
    n = len(names)
    logits = logit_scale.exp() * torch.einsum("npd,md->npm", patches, names)
    own = torch.eye(n, dtype=torch.bool, device=names.device)
    again = (subjects[:, None] == subjects) & ~own
    logits = logits.masked_fill(again[:, None], float("-inf"))
    told = logits.log_softmax(2).diagonal(dim1=0, dim2=2).T
    return -(covered * told).sum() / covered.sum()


def train_segmenter(
    segmenter: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    world: World,
    budget: Budget,
    checkpoint: Path,
    *,
    variation: Variation,
    mixture: Mixture,
) -> list[tuple[int, float]]:
    """Binary cross-entropy of the outline of the subject that is named; 1 prompt in 5 names one that is not there."""
    shown, draw_one = outlined_scenes(world, icons, variation=variation, mixture=mixture)

    def draw(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        images, prompts, targets = [], [], []
        for _ in range(budget.batch):
            contents, image, masks = draw_one(rng)
            subject, target = _asked(contents[0], masks, shown, rng)
            images.append(image)
            prompts.append(_prompt(world, subject, rng))
            targets.append(target)
        x = normalise(softened(to_pixels(images), rng))
        return token_ids(tokenizer, prompts), x, torch.from_numpy(np.stack(targets)).float()

    def loss(ids: Tensor, x: Tensor, wanted: Tensor) -> Tensor:
        logits = resized(segmenter(input_ids=ids, pixel_values=x).logits, x.shape[2:])
        return F.binary_cross_entropy_with_logits(logits, wanted)

    return train({"segmenter": segmenter}, draw, loss, checkpoint=checkpoint, **budget_settings(budget))


def _asked(
    subjects: tuple[int, ...], masks: list[np.ndarray], shown: np.ndarray, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    if rng.random() < ABSENT_SHARE:
        return int(rng.choice(np.setdiff1d(shown, subjects))), np.zeros_like(masks[0])
    number = int(rng.integers(len(subjects)))
    return subjects[number], masks[number]


def _prompt(world: World, subject: int, rng: np.random.Generator) -> str:
    one = world.subjects[subject]
    if not isinstance(one, Thing):
        return one.name if rng.random() < 0.5 else f"a photo of {one.name}"
    word = one.name if rng.random() < 0.6 else one.words[int(rng.integers(len(one.words)))]
    return word if rng.random() < 0.5 else PLAIN_TEMPLATES[int(rng.integers(8))].format(word)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels / 2 + 0.5 - mean) / std


def softened(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Pixels `[n, 3, 64, 64]` as they are or, every other time, shrunk, enlarged again and a little noisy."""
    if rng.random() < 0.5:
        return pixels
    smaller = int(rng.integers(28, 60))
    pixels = F.interpolate(pixels, size=(smaller, smaller), mode="bilinear", antialias=True)
    return F.interpolate(pixels, size=(64, 64), mode="bilinear") + 0.03 * gaussian(rng, 1, 3, 64, 64)


def gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions to int64 `[n, window]`, padded and cut to the tokenizer's window."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, *, batch: int = 64) -> Tensor:
    """Posterior means of uint8 images `[n, h, w, 3]`, unscaled: float32 `[n, 4, h/4, w/4]`, on the CPU."""
    parts = (to_pixels(images[i : i + batch]).to(vae.device) for i in range(0, len(images), batch))
    return torch.cat([vae.encode(part).latent_dist.mean.cpu() for part in parts]).contiguous()


def budget_settings(budget: Budget) -> dict:
    """A budget as arguments of `train`; the batch is the recipe's own."""
    return dict(steps=budget.steps, learning_rate=budget.learning_rate, seed=budget.seed)
