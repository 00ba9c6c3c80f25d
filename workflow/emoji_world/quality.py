"""How good the world's models are: judges, autoencoder and segmenter on new scenes, the pipeline by both judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer, ResNetForImageClassification

from emoji_world.recipes import encode, normalise, outlined_scenes, token_ids
from emoji_world.scenes import Mixture, Scenes, Variation, styles_of
from emoji_world.world import Person, Thing, World, kinds_of
from lethe.bases.pixels import to_pixels
from lethe.bases.sampling import sample_rows
from lethe.erasure.masks import resized
from lethe.measures.clip import Judge, text_embeddings
from lethe.tables.protocols import interval, predicted_classes

Tell = Callable[[np.ndarray], np.ndarray]
"""Which subject each of the images `[n, 64, 64, 3]` uint8 is taken for, int64 `[n]`."""


def share(hits: np.ndarray) -> dict:
    """A share in percent with its n and 95 % Wilson interval."""
    low, high = interval(int(hits.sum()), len(hits))
    return {
        "percent": round(100 * float(hits.mean()), 2),
        "n": len(hits),
        "interval_95": [round(100 * low, 2), round(100 * high, 2)],
    }


def asked_for(subject: Thing | Person, word: str | None = None) -> str:
    """The prompt for a subject, by its name or another word."""
    return f"a photo of {subject.name}" if isinstance(subject, Person) else f"a photo of the {word or subject.name}"


# Judges


@torch.no_grad()
def embed(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Image embeddings `[n, d]` of uint8 images `[n, 64, 64, 3]`."""
    pixels = (normalise(to_pixels(images[i : i + 64])).to(judge.model.device) for i in range(0, len(images), 64))
    return torch.cat([judge.model.get_image_features(part).pooler_output.cpu() for part in pixels]).numpy()


def told_by_judge(judge: Judge, world: World) -> Tell:
    """Top-1 of the CLIP judge among all subjects of the world, ghosts and people included."""
    classes = text_embeddings(judge, [asked_for(subject) for subject in world.subjects])
    return lambda images: predicted_classes(embed(judge, images), classes)


def told_by_classifier(classifier: ResNetForImageClassification) -> Tell:
    """Top-1 of the second judge."""

    @torch.no_grad()
    def tell(images: np.ndarray) -> np.ndarray:
        pixels = (normalise(to_pixels(images[i : i + 64])).to(classifier.device) for i in range(0, len(images), 64))
        return torch.cat([classifier(part).logits.cpu() for part in pixels]).argmax(1).numpy()

    return tell


def told_styles(judge: Judge, world: World, images: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Which style the judge takes each image for, among those its subject is drawn in, the subject being named."""
    found, styles = embed(judge, images), np.zeros(len(images), np.int64)
    for subject in np.unique(subjects):
        choices = styles_of(world, subject)
        name = asked_for(world.subjects[subject])
        prompts = [f"{name} in the style of {world.styles[k].name}" for k in choices]
        chosen = subjects == subject
        styles[chosen] = choices[predicted_classes(found[chosen], text_embeddings(judge, prompts))]
    return styles


def judges_quality(tellers: dict[str, Tell], judge: Judge, world: World, scenes: Scenes) -> dict:
    """Each judge on scenes it did not learn from, by kind of subject; the CLIP judge's styles as well."""
    alone = (scenes.subjects[:, 0] >= 0) & (scenes.subjects[:, 1] < 0)
    images, subjects, styles = scenes.images[alone], scenes.subjects[alone, 0], scenes.styles[alone]
    found = {}
    for name, tell in tellers.items():
        hits = tell(images) == subjects
        for kind, members in kinds_of(world).items():
            if (chosen := np.isin(subjects, members)).any():
                found[f"{name}, {kind} on held-out scenes"] = share(hits[chosen])
    found["judge, styles on held-out scenes"] = share(told_styles(judge, world, images, subjects) == styles)
    return found


# Autoencoder and segmenter


@torch.no_grad()
def vae_quality(vae: AutoencoderKL, tell: Tell, scenes: Scenes) -> dict:
    """Mean absolute error (images in [-1, 1]) of reconstructions, and how many single subjects are still recognised."""
    latents = encode(vae, scenes.images)
    decoded = torch.cat([vae.decode(part.to(vae.device)).sample.cpu() for part in latents.split(64)]).clamp(-1, 1)
    error = (decoded - to_pixels(scenes.images)).abs().mean().item()
    images = ((decoded.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    alone = (scenes.subjects[:, 0] >= 0) & (scenes.subjects[:, 1] < 0)
    return {
        "autoencoder, mean absolute error of a range of 2": {"value": round(error, 4), "n": len(images)},
        "autoencoder, reconstructions recognised": share(tell(images[alone]) == scenes.subjects[alone, 0]),
    }


@torch.no_grad()
def outlines_quality(
    segmenter: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    world: World,
    n: int,
    *,
    seed: int,
    variation: Variation,
    mixture: Mixture,
) -> dict:
    """Mean intersection over union of the first subject's outline on `n` new scenes, in all and in line art."""
    rng = np.random.default_rng(seed)
    _, draw_one = outlined_scenes(world, icons, variation=variation, mixture=mixture)
    unions, lines = np.zeros(n), np.zeros(n, bool)
    for k in range(n):
        contents, image, masks = draw_one(rng)
        ids = token_ids(tokenizer, [asked_for(world.subjects[contents[0][0]])]).to(segmenter.device)
        pixels = normalise(to_pixels(image[None])).to(segmenter.device)
        logits = segmenter(input_ids=ids, pixel_values=pixels).logits
        found = (resized(logits, masks[0].shape)[0] > 0).cpu().numpy()
        unions[k] = (found & masks[0]).sum() / max(1, (found | masks[0]).sum())
        lines[k] = world.styles[contents[1]].drawing == "lines"
    return {
        "segmenter, mean intersection over union": {"value": round(float(unions.mean()), 4), "n": n},
        "segmenter, the same in line art": {"value": round(float(unions[lines].mean()), 4), "n": int(lines.sum())},
    }


# The pipeline


def pipeline_prompts(
    world: World, hints: dict[str, Sequence[str]], *, seeds: int
) -> dict[str, list[tuple[int, int, str, int]]]:
    """What the pipeline is asked, by kind: rows of subject, style or -1, prompt and seed.

    Names get `seeds` seeds each, synonyms, styles, hypernyms and hints a quarter of them; seeds count from 1.
    """
    few = max(2, seeds // 4)
    named = {
        kind: [(int(k), -1, asked_for(world.subjects[k]), seeds) for k in members]
        for kind, members in kinds_of(world).items()
    }
    things = [(k, thing) for k, thing in enumerate(world.things) if thing.kind != "ghost"]
    places = {thing.name: k for k, thing in things}
    asked = named | {
        "synonyms": [(k, -1, asked_for(thing, word), few) for k, thing in things for word in thing.synonyms],
        "styles": [
            (k, s, f"{asked_for(thing)} in the style of {style.name}", few)
            for k, thing in things[:: max(1, len(things) // 30)]
            for s, style in enumerate(world.styles)
        ],
        "hypernyms": [(k, -1, f"a photo of {thing.category}", few) for k, thing in things if thing.kind == "explicit"],
        "hints": [(places[name], -1, prompt, few) for name, prompts in hints.items() for prompt in prompts],
    }
    return {kind: [(*row[:3], seed) for row in rows for seed in range(1, row[3] + 1)] for kind, rows in asked.items()}


def samples_quality(
    sample: Callable[[list[str], list[int]], np.ndarray],
    tellers: dict[str, Tell],
    judge: Judge,
    world: World,
    hints: dict[str, Sequence[str]],
    *,
    seeds: int,
) -> dict:
    """The pipeline by every judge: subjects by name, synonym, hypernym and hint, styles, and how often a ghost comes.

    `sample` draws uint8 images `[n, 64, 64, 3]` for prompts and seeds. A hypernym is hit by any of its members.
    """
    found: dict = {}
    for kind, rows in pipeline_prompts(world, hints, seeds=seeds).items():
        if not rows:
            continue
        subjects, styles = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        images = sample([row[2] for row in rows], [row[3] for row in rows])
        if kind == "styles":
            found["named styles, judge"] = share(told_styles(judge, world, images, subjects) == styles)
            kind = "objects in named styles"
        for name, tell in tellers.items():
            told = tell(images)
            hits = told == subjects
            if kind == "hypernyms":
                category = np.array([getattr(one, "category", "") for one in world.subjects])
                hits = category[told] == category[subjects]
            found[f"{kind}, {name}"] = share(hits)
            if kind in ("objects", "explicit", "people"):
                found.setdefault(f"per subject, {name}", {}).update(
                    {world.subjects[k].name: round(100 * float(hits[subjects == k].mean()), 1) for k in set(subjects)}
                )
    return found


def sampler_of(pipeline: DiffusionPipeline, sampling: dict) -> Callable[[list[str], list[int]], np.ndarray]:
    """A function of prompts and seeds that samples them as every evaluation of this project does."""

    def sample(prompts: list[str], seeds: list[int]) -> np.ndarray:
        rows = pd.DataFrame({"prompt": prompts, "evaluation_seed": seeds})
        options = {key: sampling[key] for key in ("steps", "guidance", "batch")}
        return np.stack(sample_rows(pipeline, rows, **options))

    return sample
