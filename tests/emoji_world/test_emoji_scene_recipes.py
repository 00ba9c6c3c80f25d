"""Recipes of the large emoji world: losses written out again, and what each of them trains."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from emoji_world import scene_recipes
from emoji_world.captions import Speaker, Told
from emoji_world.models import (
    build_classifier,
    build_clip,
    build_clipseg,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
    text_encoder_of,
)
from emoji_world.recipes import Budget, token_ids
from emoji_world.renders import Variation
from emoji_world.scene_recipes import (
    bare_words,
    contents_of,
    contrastive_loss,
    fitting,
    train_classifier,
    train_on_captions,
    train_scene_diffusion,
    train_segmenter,
)
from emoji_world.scenes import Mixture, Scenes, make_scenes
from emoji_world.world import World

BUDGET = Budget(steps=2, batch=4, learning_rate=1e-3, seed=4)


@pytest.fixture(scope="module")
def scenes(world: World, icons: np.ndarray) -> Scenes:
    return make_scenes(world, icons, 40, seed=3, variation=Variation(), mixture=Mixture(), ghosts=False)


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# Words that carry meaning


def test_bare_words_keep_their_states_and_lose_what_comes_after(world_tokenizer: CLIPTokenizer) -> None:
    captions = ["a photo of the ship", "a cat", "", "a photo of the ship"]
    ids = token_ids(world_tokenizer, captions)
    states, empty = torch.randn(4, 24, 8), torch.randn(24, 8)
    kept = states.clone()
    chosen = torch.tensor([True, True, True, False])
    bare = bare_words(states, ids, chosen, empty=empty, end=world_tokenizer.eos_token_id)
    for row, words in enumerate((6, 3, 1, 24)):  # the start of text and the words
        assert torch.equal(bare[row, :words], states[row, :words])
        assert torch.equal(bare[row, words:], empty[words:])
    assert torch.equal(states, kept)


def test_the_empty_caption_is_bare_already(world_tokenizer: CLIPTokenizer) -> None:
    encoder = build_text_encoder(world_tokenizer).eval()
    ids = token_ids(world_tokenizer, [""])
    with torch.no_grad():
        states = encoder(ids).last_hidden_state
    bare = bare_words(states, ids, torch.tensor([True]), empty=states[0], end=world_tokenizer.eos_token_id)
    assert torch.equal(bare, states)


@pytest.mark.parametrize("bare", [0.0, 1.0])
def test_scene_diffusion_loss_is_min_snr_weighted_and_bares_its_share(
    world: World, world_tokenizer: CLIPTokenizer, scenes: Scenes, monkeypatch: pytest.MonkeyPatch, bare: float
) -> None:
    class Silent(nn.Module):
        """A U-Net that predicts 0.25 everywhere and keeps what it was given."""

        def forward(self, noisy: Tensor, times: Tensor, states: Tensor) -> SimpleNamespace:
            self.seen = noisy.double(), times, states
            return SimpleNamespace(sample=torch.full_like(noisy, 0.25))

    spoken: list[str] = []
    told: dict = {}
    monkeypatch.setattr(scene_recipes, "train", lambda modules, loss, **options: told.update(options, loss=loss))
    monkeypatch.setattr(
        scene_recipes, "token_ids", lambda tokenizer, texts: spoken.append(texts) or token_ids(tokenizer, texts)
    )
    unet, encoder, scheduler = Silent(), build_text_encoder(world_tokenizer).eval(), build_scheduler()
    latents = torch.full((40, 4, 16, 16), 0.5, dtype=torch.float16)
    train_scene_diffusion(
        *(unet, encoder, world_tokenizer, scheduler, latents, scenes, world, BUDGET, Path("c")),
        **dict(text_rate=0.2, bare=bare),
    )
    assert told["rates"] == {"text_encoder": 0.2}
    for seed in range(4):
        loss = told["loss"](np.random.default_rng(seed)).item()
        noisy, times, states = unet.seen
        want = 0.0
        for one, time in zip(noisy, times.tolist(), strict=True):
            alpha = scheduler.alphas_cumprod[time].item()
            snr = alpha / (1 - alpha)
            noise = (one - math.sqrt(alpha) * 0.5) / math.sqrt(1 - alpha)
            want += min(snr, 5) / snr * (noise - 0.25).square().mean().item() / BUDGET.batch
        assert loss == pytest.approx(want, rel=1e-3)
        ids = token_ids(world_tokenizer, spoken[-1])
        with torch.no_grad():
            whole = encoder(ids).last_hidden_state
        assert spoken[-1][-1] == ""
        for row in range(BUDGET.batch):
            words = int((ids[row] == world_tokenizer.eos_token_id).int().argmax())
            assert torch.equal(states[row, :words], whole[row, :words])
            assert torch.equal(states[row, words:], (whole[-1] if bare else whole[row])[words:])


def test_text_and_unet_train_together(
    world: World, world_tokenizer: CLIPTokenizer, scenes: Scenes, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    unet, encoder = build_unet(widths=(8, 16, 24)), build_text_encoder(world_tokenizer)
    before = copied(unet), copied(encoder)
    latents = torch.randn(40, 4, 16, 16)
    train_scene_diffusion(
        *(unet, encoder, world_tokenizer, build_scheduler(), latents, scenes, world, BUDGET, tmp_path / "c"),
        **dict(text_rate=0.1, bare=0.5),
    )
    assert moved(unet, before[0])
    assert moved(encoder, before[1])


# Judges


def test_contrastive_loss_takes_every_fitting_caption_for_a_positive() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, -1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    fit = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)

    def of_rows(scores: list[list[float]], positives: list[list[float]]) -> float:
        total = 0.0
        for row, good in zip(scores, positives, strict=True):
            everything = math.log(sum(math.exp(score) for score in row))
            chosen = [score - everything for score, yes in zip(row, good, strict=True) if yes]
            total -= sum(chosen) / len(chosen) / len(scores)
        return total

    want = (of_rows(logits.tolist(), fit.tolist()) + of_rows(logits.T.tolist(), fit.T.tolist())) / 2
    assert contrastive_loss(logits, fit).item() == pytest.approx(want, rel=1e-12)


def test_fitting_asks_every_caption_about_every_scene() -> None:
    told = [Told("x", (frozenset([1]),)), Told("y", (frozenset([1, 2]),), style=3)]
    contents = [((1,), 3, -1), ((2,), 3, -1), ((1,), 0, -1)]
    assert fitting(told, contents).tolist() == [[1, 1], [0, 1], [1, 0]]


def test_contents_are_read_back_from_the_scenes(world: World, scenes: Scenes) -> None:
    rng = np.random.default_rng(0)
    for row in range(40):
        subjects, style, place = contents_of(scenes, row)
        assert len(subjects) == (scenes.subjects[row] >= 0).sum()
        assert Speaker(world).tell(subjects, style, place, rng).fits(subjects, style, place)


@pytest.mark.parametrize("soften", [True, False])
def test_train_on_captions_trains_both_towers(
    world: World, world_tokenizer: CLIPTokenizer, scenes: Scenes, tmp_path: Path, soften: bool
) -> None:
    clip = build_clip(world_tokenizer, text=(32, 1), vision=(32, 1), embedding=16)
    before = copied(clip)
    train_on_captions(clip, world_tokenizer, scenes, world, BUDGET, tmp_path / "c", soften=soften)
    names = moved(clip, before)
    assert {"text_projection.weight", "visual_projection.weight", "logit_scale"} <= names


def test_the_classifier_learns_to_tell_two_colours(tmp_path: Path) -> None:
    images = np.zeros((16, 64, 64, 3), np.uint8)
    images[::2] = 200
    subjects = np.stack([np.arange(16) % 2, np.full(16, -1)], axis=1)
    none = np.full(16, -1)
    torch.manual_seed(0)
    classifier = build_classifier(["white", "black"], widths=(8, 8))
    budget = Budget(steps=40, batch=8, learning_rate=1e-2, seed=1)
    train_classifier(classifier, Scenes(images, subjects, none, none), budget, tmp_path / "c")
    assert classifier.config.id2label == {0: "white", 1: "black"}
    pixels = scene_recipes.normalise(scene_recipes.to_pixels(images[:2]))
    assert classifier(pixels).logits.argmax(1).tolist() == [0, 1]


def test_train_segmenter_leaves_the_judge_as_it_is(
    world: World, world_tokenizer: CLIPTokenizer, icons: np.ndarray, tmp_path: Path
) -> None:
    clip = build_clip(world_tokenizer)
    segmenter = build_clipseg(clip, reduce=16)
    before = copied(segmenter)
    options = dict(variation=Variation(), mixture=Mixture(empty=0.0, pairs=0.5))
    train_segmenter(segmenter, world_tokenizer, icons, world, BUDGET, tmp_path / "c", **options)
    names = moved(segmenter, before)
    assert names
    assert all(name.startswith("decoder.") for name in names)


def test_segmenters_are_asked_for_what_is_there_and_for_what_is_not(
    world: World, icons: np.ndarray, world_tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []
    inner = scene_recipes._asked

    def listen(subjects: tuple, masks: list, shown: np.ndarray, rng: np.random.Generator) -> tuple:
        subject, target = inner(subjects, masks, shown, rng)
        asked.append((subjects, masks, subject, target))
        return subject, target

    monkeypatch.setattr(scene_recipes, "_asked", listen)
    monkeypatch.setattr(scene_recipes, "train", lambda modules, loss, **_: loss)

    def silent(input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(len(input_ids), 64, 64))

    options = dict(variation=Variation(), mixture=Mixture(empty=0.0, pairs=0.5))
    budget = Budget(2, 300, 1e-3, 4)
    loss = train_segmenter(silent, world_tokenizer, icons, world, budget, Path("c"), **options)
    assert loss(np.random.default_rng(1)).item() == pytest.approx(math.log(2), rel=1e-5)
    absent = [subject not in subjects for subjects, _, subject, _ in asked]
    assert np.mean(absent) == pytest.approx(0.2, abs=0.08)
    for (subjects, masks, subject, target), none in zip(asked, absent, strict=True):
        assert np.array_equal(target, np.zeros((64, 64), bool) if none else masks[subjects.index(subject)])


# Architectures


def test_a_text_encoder_begins_as_a_clips_text_tower(world_tokenizer: CLIPTokenizer) -> None:
    clip = build_clip(world_tokenizer, text=(48, 2), vision=(32, 1), embedding=16).eval()
    encoder = text_encoder_of(clip).eval()
    ids = token_ids(world_tokenizer, ["a ship", ""])
    with torch.no_grad():
        assert torch.equal(encoder(ids).last_hidden_state, clip.text_model(input_ids=ids).last_hidden_state)
    assert encoder.embeddings.token_embedding.weight.data_ptr() != (
        clip.text_model.embeddings.token_embedding.weight.data_ptr()
    )


def test_widths_are_what_is_asked_for(world_tokenizer: CLIPTokenizer) -> None:
    assert build_vae(widths=(8, 16, 24)).config.block_out_channels == (8, 16, 24)
    unet = build_unet(widths=(8, 16, 24), text_width=40)
    assert unet.config.block_out_channels == (8, 16, 24)
    assert unet.config.cross_attention_dim == build_text_encoder(world_tokenizer, width=40).config.hidden_size == 40
