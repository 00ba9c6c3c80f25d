"""How good the emoji world's models are, each judged on pictures it did not learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from emoji_world.recipes import draw_scene, encode, normalise, token_ids
from emoji_world.renders import Pictures
from emoji_world.world import World
from lethe.bases.pixels import to_pixels
from lethe.bases.sampling import sample_rows
from lethe.erasure.masks import resized
from lethe.measures.clip import Judge, text_embeddings
from lethe.tables.protocols import interval, predicted_classes


@torch.no_grad()
def embed(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Image embeddings `[n, d]` of uint8 images `[n, 64, 64, 3]`."""
    parts = [
        judge.model.get_image_features(normalise(to_pixels(images[i : i + 64]))) for i in range(0, len(images), 64)
    ]
    return torch.cat([part.pooler_output for part in parts]).numpy()


def share(hits: np.ndarray) -> dict:
    """A share in percent with its n and 95 % Wilson interval."""
    low, high = interval(int(hits.sum()), len(hits))
    return {
        "percent": round(100 * float(hits.mean()), 2),
        "n": len(hits),
        "interval_95": [round(100 * low, 2), round(100 * high, 2)],
    }


def object_hits(judge: Judge, world: World, images: np.ndarray, things: np.ndarray) -> np.ndarray:
    """Whether each image is taken for its object, bool `[n]`: top-1 among "a photo of the {object}"."""
    classes = text_embeddings(judge, [f"a photo of the {thing.name}" for thing in world.things])
    return predicted_classes(embed(judge, images), classes) == things


def style_hits(judge: Judge, world: World, images: np.ndarray, things: np.ndarray, styles: np.ndarray) -> np.ndarray:
    """Whether each image is taken for its style, bool `[n]`: top-1 among the styles, its object named."""
    found, hits = embed(judge, images), np.zeros(len(images), bool)
    for thing in np.unique(things):
        prompts = [f"a photo of the {world.things[thing].name} in the style of {style.name}" for style in world.styles]
        chosen = things == thing
        hits[chosen] = predicted_classes(found[chosen], text_embeddings(judge, prompts)) == styles[chosen]
    return hits


def judge_quality(judge: Judge, world: World, pictures: Pictures) -> dict:
    """The judge on held-out renders: objects and styles."""
    shown = pictures.things >= 0
    images, things, styles = pictures.images[shown], pictures.things[shown], pictures.styles[shown]
    return {
        "judge, objects on held-out renders": share(object_hits(judge, world, images, things)),
        "judge, styles on held-out renders": share(style_hits(judge, world, images, things, styles)),
    }


@torch.no_grad()
def vae_quality(vae: AutoencoderKL, judge: Judge, world: World, pictures: Pictures) -> dict:
    """Mean absolute error (images in [-1, 1]) of reconstructions, and how many the judge still recognises."""
    latents = encode(vae, pictures.images)
    decoded = torch.cat([vae.decode(part).sample for part in latents.split(64)]).clamp(-1, 1)
    error = (decoded - to_pixels(pictures.images)).abs().mean().item()
    images = ((decoded.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    shown = pictures.things >= 0
    return {
        "autoencoder, mean absolute error of a range of 2": {"value": round(error, 4), "n": len(images)},
        "autoencoder, reconstructions recognised": share(
            object_hits(judge, world, images[shown], pictures.things[shown])
        ),
    }


@torch.no_grad()
def segmenter_quality(
    clipseg: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    world: World,
    n: int,
    *,
    seed: int,
) -> dict:
    """Intersection over union of the named object's mask on new scenes of one or two objects."""
    rng, unions = np.random.default_rng(seed), []
    for _ in range(n):
        image, masks, things = draw_scene(icons, rng)
        ids = token_ids(tokenizer, [f"a photo of the {world.things[things[0]].name}"])
        logits = clipseg(input_ids=ids, pixel_values=normalise(to_pixels(image[None]))).logits
        found = (resized(logits, masks[0].shape)[0] > 0).numpy()
        unions.append((found & masks[0]).sum() / max(1, (found | masks[0]).sum()))
    return {"segmenter, mean intersection over union": {"value": round(float(np.mean(unions)), 4), "n": n}}


def pipeline_quality(pipeline: DiffusionPipeline, judge: Judge, world: World, *, seeds: int, sampling: dict) -> dict:
    """Objects by name and by synonym, and named styles, judged by CLIP on samples with seeds 1 to `seeds`."""
    names = [(k, thing.name) for k, thing in enumerate(world.things)]
    synonyms = [(k, word) for k, thing in enumerate(world.things) for word in thing.synonyms]
    plain = "a photo of the {}"
    objects = _samples(pipeline, [(k, plain.format(word)) for k, word in names], seeds, sampling)
    others = _samples(pipeline, [(k, plain.format(word)) for k, word in synonyms], max(2, seeds // 4), sampling)
    styled = [
        ((k, s), f"a photo of the {word} in the style of {style.name}")
        for k, word in names
        for s, style in enumerate(world.styles)
    ]
    kinds, images = _samples(pipeline, styled, max(2, seeds // 8), sampling)
    things, styles = kinds.T
    return {
        "objects by name": share(object_hits(judge, world, objects[1], objects[0])),
        "objects by synonym": share(object_hits(judge, world, others[1], others[0])),
        "named styles": share(style_hits(judge, world, images, things, styles)),
        "objects in named styles": share(object_hits(judge, world, images, things)),
        "per object": _per_kind(world, judge, *objects),
    }


def _per_kind(world: World, judge: Judge, things: np.ndarray, images: np.ndarray) -> dict:
    hits = object_hits(judge, world, images, things)
    return {thing.name: round(100 * float(hits[things == k].mean()), 1) for k, thing in enumerate(world.things)}


def _samples(
    pipeline: DiffusionPipeline, prompts: list[tuple[object, str]], seeds: int, sampling: dict
) -> tuple[np.ndarray, np.ndarray]:
    rows = [(kind, prompt, seed) for kind, prompt in prompts for seed in range(1, seeds + 1)]
    table = pd.DataFrame([row[1:] for row in rows], columns=["prompt", "evaluation_seed"])
    images = sample_rows(
        pipeline, table, steps=sampling["steps"], guidance=sampling["guidance"], batch=sampling["batch"]
    )
    return np.array([row[0] for row in rows]), np.stack(images)
