"""The measured quality of the emoji world's models, on stand-ins whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from emoji_world import quality
from emoji_world.quality import (
    judge_quality,
    object_hits,
    pipeline_quality,
    segmenter_quality,
    share,
    style_hits,
    vae_quality,
)
from emoji_world.recipes import draw_scene, normalise, token_ids
from emoji_world.renders import Pictures
from emoji_world.world import World
from lethe.bases.pixels import to_pixels
from lethe.measures.clip import Judge


class KnowingClip:
    """Reads thing and style from the first pixel of an image, and from the words of a prompt."""

    device = torch.device("cpu")

    def __init__(self, world: World, tokenizer: CLIPTokenizer) -> None:
        names = [(k, word) for k, thing in enumerate(world.things) for word in thing.words]
        prompts = {f"a photo of the {word}": (k, None) for k, word in names}
        prompts |= {
            f"a photo of the {word} in the style of {style.name}": (k, s)
            for k, word in names
            for s, style in enumerate(world.styles)
        }
        self.meant = {tuple(token_ids(tokenizer, [text])[0].tolist()): kinds for text, kinds in prompts.items()}

    @staticmethod
    def embedding(thing: int, style: int | None) -> Tensor:
        vector = torch.zeros(40)
        vector[thing] = 2
        if style is not None:
            vector[34 + style] = 1
        return vector

    def get_text_features(self, input_ids: Tensor) -> SimpleNamespace:
        found = [self.embedding(*self.meant[tuple(ids.tolist())]) for ids in input_ids]
        return SimpleNamespace(pooler_output=torch.stack(found))

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        grey = normalise(to_pixels(np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(3, 3)))[:, 0, 0, 0]
        corner = (pixel_values[:, 0, 0, :2, None] - grey).abs().argmin(-1)
        return SimpleNamespace(pooler_output=torch.stack([self.embedding(int(a), int(b)) for a, b in corner]))


@pytest.fixture(scope="module")
def judge(world: World, world_tokenizer: CLIPTokenizer) -> Judge:
    return Judge(KnowingClip(world, world_tokenizer), world_tokenizer, None)


def shown(things: np.ndarray, styles: np.ndarray) -> np.ndarray:
    images = np.zeros((len(things), 64, 64, 3), np.uint8)
    images[:, 0, 0] = things[:, None]
    images[:, 0, 1] = styles[:, None]
    return images


@pytest.mark.parametrize(
    ("hits", "n", "expected"),
    [
        (81, 263, {"percent": 30.8, "n": 263, "interval_95": [25.53, 36.62]}),
        (0, 20, {"percent": 0.0, "n": 20, "interval_95": [0.0, 16.11]}),
    ],
)
def test_share_has_its_n_and_interval(hits: int, n: int, expected: dict) -> None:
    assert share(np.arange(n) < hits) == expected


def test_hits_are_those_of_the_shown_object_and_style(judge: Judge, world: World) -> None:
    things, styles = np.arange(150) % 30, np.arange(150) % 5
    images = shown(things, styles)
    assert object_hits(judge, world, images, things).all()
    assert style_hits(judge, world, images, things, styles).all()
    wrong = np.arange(150) % 3 == 0
    assert np.array_equal(object_hits(judge, world, images, np.where(wrong, (things + 1) % 30, things)), ~wrong)
    assert np.array_equal(style_hits(judge, world, images, things, np.where(wrong, (styles + 1) % 5, styles)), ~wrong)


def test_judge_quality_leaves_places_out(judge: Judge, world: World) -> None:
    things, styles = np.array([3, 4, -1, 5, -2]), np.array([0, 1, -1, 2, -1])
    images = shown(things.clip(0), styles.clip(0))
    images[1, 0, 0] = 9  # taken for another object, in the right style
    result = judge_quality(judge, world, Pictures(images, np.zeros((5, 64, 64), bool), things, styles))
    objects, named = result.values()
    assert (objects["percent"], objects["n"]) == (66.67, 3)
    assert (named["percent"], named["n"]) == (100.0, 3)


def test_vae_quality_measures_the_error_of_a_range_of_two(judge: Judge, world: World) -> None:
    class Vae:
        """Keeps every pixel, but moves all of the right half by 0.5."""

        def encode(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=x))

        def decode(self, z: Tensor) -> SimpleNamespace:
            moved = z.clone()
            moved[..., 32:] += 0.5
            return SimpleNamespace(sample=moved)

    things, styles = np.array([3, -1, 7]), np.array([0, -1, 1])
    pictures = Pictures(shown(things.clip(0), styles.clip(0)), np.zeros((3, 64, 64), bool), things, styles)
    error, recognised = vae_quality(Vae(), judge, world, pictures).values()
    assert error == {"value": 0.25, "n": 3}
    assert (recognised["percent"], recognised["n"]) == (100.0, 2)


@pytest.mark.parametrize(("part", "expected"), [("all", 1.0), ("upper half", None), ("nothing", 0.0)])
def test_segmenter_quality_is_intersection_over_union(
    world: World,
    world_tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    expected: float | None,
) -> None:
    unions: list[float] = []

    def watched(icons: np.ndarray, rng: np.random.Generator) -> tuple:
        clipseg.scene = draw_scene(icons, rng)
        return clipseg.scene

    def clipseg(input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
        image, masks, things = clipseg.scene
        prompt = f"a photo of the {world.things[things[0]].name}"
        assert torch.equal(input_ids, token_ids(world_tokenizer, [prompt]))
        assert torch.equal(pixel_values, normalise(to_pixels([image])))
        found = masks[0] & {"all": True, "upper half": np.arange(64)[:, None] < 32, "nothing": False}[part]
        unions.append(found.sum() / masks[0].sum())
        return SimpleNamespace(logits=torch.from_numpy(found).float() - 0.5)

    monkeypatch.setattr(quality, "draw_scene", watched)
    (result,) = segmenter_quality(clipseg, world_tokenizer, icons, world, 12, seed=1).values()
    assert result == {"value": round(float(np.mean(unions)), 4), "n": 12}
    assert result["value"] == expected if expected is not None else 0.2 < result["value"] < 0.8


def test_pipeline_quality_counts_every_word_and_style(judge: Judge, world: World) -> None:
    words = {word: k for k, thing in enumerate(world.things) for word in thing.words}
    asked: list[tuple] = []

    def draw(prompts: list[str], *, generator: list[torch.Generator], **options: object) -> SimpleNamespace:
        """Draws what is asked, but every synonym of a ship as a truck."""
        assert options == {"num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "np"}
        asked.extend((p, g.initial_seed()) for p, g in zip(prompts, generator, strict=True))
        drawn = []
        for prompt in prompts:
            word, _, style = prompt.removeprefix("a photo of the ").partition(" in the style of ")
            thing = 9 if word in world.things[8].synonyms else words[word]
            drawn.append((thing, [s.name for s in world.styles].index(style) if style else 0))
        return SimpleNamespace(images=pipeline.vae.decoder(torch.from_numpy(shown(*np.array(drawn).T) / 255)).numpy())

    pipeline = mock.Mock(side_effect=draw)
    pipeline.vae.decoder, pipeline.unet.dtype = torch.nn.Identity(), torch.float32
    result = pipeline_quality(
        pipeline, judge, world, seeds=8, sampling={"steps": 3, "guidance": 6.0, "batch": 7, "scheduler": "ddim"}
    )
    synonyms = len(words) - 30
    assert {name: value["n"] for name, value in result.items() if name != "per object"} == {
        "objects by name": 30 * 8,
        "objects by synonym": synonyms * 2,
        "named styles": 30 * 5 * 2,
        "objects in named styles": 30 * 5 * 2,
    }
    assert result["objects by name"]["percent"] == 100
    assert result["objects by synonym"]["percent"] == round(100 * (synonyms - 3) / synonyms, 2)
    assert result["named styles"]["percent"] == 100
    assert result["per object"] == {thing.name: 100.0 for thing in world.things}
    assert len(set(asked)) == len(asked) == 30 * 8 + synonyms * 2 + 300
    assert {seed for _, seed in asked} == set(range(1, 9))
