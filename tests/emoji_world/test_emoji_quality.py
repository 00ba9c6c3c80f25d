"""The measured quality of the emoji world's models, on stand-ins whose answers are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from conftest import CPU
from emoji_world import quality, recipes
from emoji_world.captions import tokenizer_corpus
from emoji_world.models import train_tokenizer
from emoji_world.quality import (
    asked_for,
    embed,
    judges_quality,
    outlines_quality,
    pipeline_prompts,
    samples_quality,
    share,
    told_by_classifier,
    told_by_judge,
    told_styles,
    vae_quality,
)
from emoji_world.recipes import normalise, token_ids
from emoji_world.scenes import Mixture, Scenes, Variation, styles_of
from emoji_world.world import Person, Style, Thing, World
from lethe.bases.pixels import to_pixels
from lethe.measures.clip import Judge

WORLD = World(
    (
        Thing("cat", "cat", "animal", ("kitty",)),
        Thing("bomb", "bomb", "weapon", ("grenade",), "explicit", ("tick tick",)),
        Thing("axe", "axe", "weapon", ("hatchet",), "explicit", ("chop",)),
        Thing("robot", "robot", "toy", ("android",), "ghost"),
    ),
    tuple(Style(name, name, drawing, "MIT", "") for name, drawing in (("Noto", "colour"), ("line art", "lines"))),
    (Person("Ada Vell", "a", "cook", "woman", "dark"), Person("Ben Vell", "b", "cook", "man", "dark")),
)
HINTS = {"bomb": ("tick tick tick",), "axe": ("chop chop",)}


class KnowingClip:
    """Reads subject and style from the first two pixels of an image, and from the words of a prompt."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        prompts = {asked_for(one): (k, None) for k, one in enumerate(WORLD.subjects)}
        prompts |= {
            f"{asked_for(one)} in the style of {style.name}": (k, s)
            for k, one in enumerate(WORLD.subjects)
            for s, style in enumerate(WORLD.styles)
        }
        self.meant = {tuple(token_ids(tokenizer, [text])[0].tolist()): kinds for text, kinds in prompts.items()}

    @staticmethod
    def embedding(subject: int, style: int | None) -> Tensor:
        vector = torch.zeros(10)
        vector[subject] = 2
        if style is not None:
            vector[8 + style] = 1
        return vector

    def get_text_features(self, input_ids: Tensor) -> SimpleNamespace:
        found = [self.embedding(*self.meant[tuple(ids.tolist())]) for ids in input_ids]
        return SimpleNamespace(pooler_output=torch.stack(found))

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        grey = normalise(to_pixels(np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(3, 3)))[:, 0, 0, 0]
        corner = (pixel_values[:, 0, 0, :2, None] - grey).abs().argmin(-1)
        return SimpleNamespace(pooler_output=torch.stack([self.embedding(int(a), int(b)) for a, b in corner]))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    tokenizer = train_tokenizer(tokenizer_corpus(WORLD), tmp_path_factory.mktemp("tokenizer"), merges=600, window=24)
    return Judge(KnowingClip(tokenizer), tokenizer, None)


def shown(subjects: list[int] | np.ndarray, styles: list[int] | np.ndarray) -> np.ndarray:
    images = np.zeros((len(subjects), 64, 64, 3), np.uint8)
    images[:, 0, 0] = np.array(subjects)[:, None]
    images[:, 0, 1] = np.array(styles).clip(0)[:, None]
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


def test_subjects_are_asked_for_as_people_do() -> None:
    assert asked_for(WORLD.things[0]) == "a photo of the cat"
    assert asked_for(WORLD.things[0], "kitty") == "a photo of the kitty"
    assert asked_for(WORLD.people[0]) == "a photo of Ada Vell"


def test_judges_tell_subjects_and_styles(judge: Judge) -> None:
    subjects, styles = np.arange(12) % 6, np.where(np.arange(12) % 6 < 4, np.arange(12) // 6, 0)
    images = shown(subjects, styles)
    assert np.array_equal(told_by_judge(judge, WORLD)(images), subjects)
    assert np.array_equal(told_styles(judge, WORLD, images, subjects), styles)
    assert list(styles_of(WORLD, 4)) == [0]


def test_the_second_judge_tells_its_highest_logit() -> None:
    def classifier(x: Tensor) -> SimpleNamespace:
        logits = torch.zeros(len(x), 6)
        logits[torch.arange(len(x)), torch.arange(len(x)) % 6] = 1
        return SimpleNamespace(logits=logits)

    classifier.device = CPU
    assert told_by_classifier(classifier)(shown([0] * 7, [0] * 7)).tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_models_are_measured_where_they_lie() -> None:
    there, seen = torch.device("meta"), []

    def answer(*shape: int) -> Callable[..., Tensor]:
        def given(*images: Tensor, **named: Tensor) -> Tensor:
            seen.extend(one.device for one in (*images, *named.values()))
            return torch.zeros(len((*images, *named.values())[0]), *shape)

        return given

    class Network:
        device = there

        def __call__(self, *given: Tensor, **named: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=answer(6)(*given, **named))

        def get_image_features(self, pixels: Tensor) -> SimpleNamespace:
            return SimpleNamespace(pooler_output=answer(5)(pixels))

        def encode(self, pixels: Tensor) -> SimpleNamespace:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=answer(4, 16, 16)(pixels)))

        def decode(self, latents: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=answer(3, 64, 64)(latents))

    images, network = shown([0, 4], [0, 0]), Network()
    assert embed(Judge(network, None, None), images).shape == (2, 5)
    tell = told_by_classifier(network)
    assert tell(images).shape == (2,)
    vae_quality(network, tell, Scenes(images, np.array([[0, -1], [4, -1]]), np.zeros(2, int), np.full(2, -1)))
    assert len(seen) == 5
    assert set(seen) == {there}


def test_judges_are_measured_on_single_subjects_by_kind(judge: Judge) -> None:
    subjects = np.array([[0, -1], [0, -1], [3, -1], [4, -1], [0, 1], [-1, -1]])
    images = shown([0, 1, 3, 4, 0, 0], [0, 0, 0, 0, 0, 0])  # the second cat looks like a bomb
    scenes = Scenes(images, subjects, np.array([0, 0, 1, 0, 0, -1]), np.full(6, -1))
    found = judges_quality({"judge": told_by_judge(judge, WORLD)}, judge, WORLD, scenes)
    assert {name: (row["percent"], row["n"]) for name, row in found.items()} == {
        "judge, objects on held-out scenes": (50.0, 2),
        "judge, ghosts on held-out scenes": (100.0, 1),
        "judge, people on held-out scenes": (100.0, 1),
        "judge, styles on held-out scenes": (75.0, 4),
    }


def test_prompts_ask_for_every_word_and_for_ghosts_by_name_only() -> None:
    asked = pipeline_prompts(WORLD, HINTS, seeds=8)
    assert {kind: len(rows) for kind, rows in asked.items()} == {
        "objects": 8,
        "explicit": 16,
        "ghosts": 8,
        "people": 16,
        "synonyms": 3 * 2,
        "styles": 3 * 2 * 2,
        "hypernyms": 2 * 2,
        "hints": 2 * 2,
    }
    rows = [row for rows in asked.values() for row in rows]
    assert Counter(row[3] for row in asked["people"]) == Counter(dict.fromkeys(range(1, 9), 2))
    assert (2, -1, "chop chop", 1) in asked["hints"]
    assert (1, -1, "a photo of weapon", 2) in asked["hypernyms"]
    assert [row for row in rows if row[0] == 3] == asked["ghosts"]


def test_samples_are_judged_by_what_they_were_asked_for(judge: Judge) -> None:
    words = {word: k for k, thing in enumerate(WORLD.things) for word in thing.words}
    words |= {person.name: 4 + k for k, person in enumerate(WORLD.people)}
    words |= {"weapon": 2, "tick tick tick": 1, "chop chop": 0}

    def sample(prompts: list[str], seeds: list[int]) -> np.ndarray:
        """Draws what is asked, but axes for any weapon, cats for ghosts and, by a hint, for axes."""
        assert len(prompts) == len(seeds)
        drawn = []
        for prompt in prompts:
            word, _, style = prompt.removeprefix("a photo of ").removeprefix("the ").partition(" in the style of ")
            subject = 0 if words[word] == 3 else words[word]
            drawn.append((subject, 1 if style == "line art" else 0))
        return shown(*np.array(drawn).T)

    tellers = {"judge": told_by_judge(judge, WORLD), "blind": lambda images: np.full(len(images), 5)}
    found = samples_quality(sample, tellers, judge, WORLD, HINTS, seeds=4)
    percent = {name: row["percent"] for name, row in found.items() if "percent" in row}
    assert percent == {
        "objects, judge": 100.0,
        "objects, blind": 0.0,
        "explicit, judge": 100.0,
        "explicit, blind": 0.0,
        "ghosts, judge": 0.0,
        "ghosts, blind": 0.0,
        "people, judge": 100.0,
        "people, blind": 50.0,
        "synonyms, judge": 100.0,
        "synonyms, blind": 0.0,
        "named styles, judge": 100.0,
        "objects in named styles, judge": 100.0,
        "objects in named styles, blind": 0.0,
        "hypernyms, judge": 100.0,
        "hypernyms, blind": 0.0,
        "hints, judge": 50.0,
        "hints, blind": 0.0,
    }
    assert found["per subject, judge"] == {one.name: 100.0 for k, one in enumerate(WORLD.subjects) if k != 3}
    assert found["per subject, blind"]["Ben Vell"] == 100.0


def test_the_autoencoder_is_measured_by_the_error_of_a_range_of_two(judge: Judge) -> None:
    class Vae:
        """Keeps every pixel, but moves all of the right half by 0.5."""

        device = CPU

        def encode(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=x))

        def decode(self, z: Tensor) -> SimpleNamespace:
            moved = z.clone()
            moved[..., 32:] += 0.5
            return SimpleNamespace(sample=moved)

    subjects = np.array([[0, -1], [-1, -1], [4, -1], [0, 1], [3, -1]])
    scenes = Scenes(shown([0, 0, 4, 0, 1], [0] * 5), subjects, np.array([0, -1, 0, 0, 0]), np.full(5, -1))
    error, recognised = vae_quality(Vae(), told_by_judge(judge, WORLD), scenes).values()
    assert error == {"value": 0.25, "n": 5}
    assert (recognised["percent"], recognised["n"]) == (66.67, 3)


@pytest.mark.parametrize(("part", "expected"), [("all", 1.0), ("upper half", None), ("nothing", 0.0)])
def test_outlines_are_measured_in_all_and_in_line_art(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, part: str, expected: float | None
) -> None:
    icons = np.zeros((6, 2, 96, 96, 4), np.uint8)
    icons[:, :, 10:80, 10:80, 3] = 255
    inner, scenes = recipes.draw_scene, []
    monkeypatch.setattr(recipes, "draw_scene", lambda *given: scenes.append(inner(*given)) or scenes[-1])

    unions: list[float] = []

    def segmenter(input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
        image, masks = scenes[-1]
        assert torch.equal(pixel_values, normalise(to_pixels([image])))
        found = masks[0] & {"all": True, "upper half": np.arange(64)[:, None] < 32, "nothing": False}[part]
        unions.append(found.sum() / masks[0].sum())
        return SimpleNamespace(logits=torch.from_numpy(found).float() - 0.5)

    segmenter.device = CPU
    variation = Variation(scale=(0.72, 0.88), shift=3, mirrored=0.5)
    options = dict(variation=variation, mixture=Mixture(empty=0.0, pairs=0.5, people=0.3, settings=0.12))
    every, lines = outlines_quality(segmenter, judge.tokenizer, icons, WORLD, 40, seed=1, **options).values()
    assert every == {"value": round(float(np.mean(unions)), 4), "n": 40}
    if expected is None:
        assert 0.2 < every["value"] < 0.8
    else:
        assert every["value"] == lines["value"] == expected
    assert 2 < lines["n"] < 30


def test_a_person_has_no_synonyms_to_be_asked_for_by() -> None:
    assert all(isinstance(one, Person) for one in WORLD.subjects[4:])
    assert not any("Vell" in row[2] for row in pipeline_prompts(WORLD, {}, seeds=4)["synonyms"])


def test_sampling_is_that_of_every_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple] = []

    def sample_rows(pipeline: str, rows: object, **options: object) -> list[np.ndarray]:
        seen.append((pipeline, list(rows["prompt"]), list(rows["evaluation_seed"]), options))
        return [np.zeros((2, 2, 3), np.uint8)] * len(rows)

    monkeypatch.setattr(quality, "sample_rows", sample_rows)
    sampling = dict(scheduler="ddim", steps=3, guidance=2.0, batch=7)
    assert quality.sampler_of("pipeline", sampling)(["a", "b"], [4, 5]).shape == (2, 2, 2, 3)
    assert seen == [("pipeline", ["a", "b"], [4, 5], dict(steps=3, guidance=2.0, batch=7))]
