"""Recipes of the emoji world's models: batches parsed back from their captions, losses written out again."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from emoji_world import recipes
from emoji_world.models import build_scheduler, build_text_encoder, build_unet, build_vae
from emoji_world.recipes import (
    Budget,
    draw_scene,
    encode,
    normalise,
    token_ids,
    train_clip,
    train_clipseg,
    train_diffusion,
    train_vae,
)
from emoji_world.renders import Pictures, make_pictures
from emoji_world.world import (
    GENERIC,
    PLACES,
    PLAIN_TEMPLATES,
    STYLE_TEMPLATES,
    World,
)
from lethe.bases.pixels import to_pixels

BUDGET = Budget(steps=2, batch=3, learning_rate=1e-3, seed=4)


@pytest.fixture(scope="module")
def pictures(icons: np.ndarray) -> Pictures:
    return make_pictures(icons, 40, seed=3)


@pytest.fixture
def batch_loss() -> Callable[..., Callable[[np.random.Generator], Tensor]]:
    """`batch_loss(recipe, *arguments)`: the loss that a recipe hands to the training loop, which does not run."""

    def loss_of(recipe: Callable, *arguments: object) -> Callable[[np.random.Generator], Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recipes, "train", lambda modules, loss, **_: loss)
            return recipe(*arguments)

    return loss_of


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of the last batch."""
    said: list[str] = []

    def listen(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
        said[:] = captions
        return token_ids(tokenizer, captions)

    monkeypatch.setattr(recipes, "token_ids", listen)
    return said


def meanings(world: World) -> dict[str, tuple[set[int], int]]:
    """Every caption that names something: the things it fits, and its style or -1."""
    words = {word: {k} for k, thing in enumerate(world.things) for word in thing.words}
    for thing in world.things:
        members = {k for k, other in enumerate(world.things) if other.category == thing.category}
        words[thing.category] = words.get(thing.category, set()) | members
    words |= {word: set(range(len(world.things))) for word in GENERIC}
    words |= {place: {k - len(PLACES)} for k, place in enumerate(PLACES)}
    plain = {template.format(word): (things, -1) for word, things in words.items() for template in PLAIN_TEMPLATES}
    return plain | {
        template.format(word, style.name): (things, k)
        for word, things in words.items()
        for k, style in enumerate(world.styles)
        for template in STYLE_TEMPLATES
    }


# What is shared


def test_normalise_is_clips(drawn: Callable[..., Tensor]) -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 1, 3)
    want = [(np.array([0, 0.5, 1]) - m) / s for m, s in zip(recipes.MEAN, recipes.STD, strict=True)]
    assert torch.allclose(normalise(pixels)[0, :, 0], torch.tensor(np.stack(want)).float())


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_encode_gives_posterior_means_unscaled(pictures: Pictures, batch: int) -> None:
    vae = build_vae().eval()
    latents = encode(vae, pictures.images[:6], batch=batch)
    assert latents.shape == (6, 4, 16, 16)
    assert not latents.requires_grad
    with torch.no_grad():
        for latent, image in zip(latents, pictures.images, strict=False):
            assert torch.allclose(latent, vae.encode(to_pixels([image])).latent_dist.mean[0], atol=1e-5)


# Scenes


def test_scenes_hold_one_object_or_two_side_by_side(icons: np.ndarray) -> None:
    rng, alone = np.random.default_rng(1), 0
    for _ in range(300):
        image, masks, things = draw_scene(icons, rng)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert len(masks) == len(things) in (1, 2)
        assert all(mask.shape == (64, 64) and mask.dtype == bool and mask.any() for mask in masks)
        alone += len(things) == 1
        for mask, thing in zip(masks, things, strict=True):
            seen = np.median(image[mask], axis=0)
            colours = icons[thing, :, 48, 48, :3].astype(int)
            assert abs(colours - seen).max(axis=1).min() <= 8  # the named object, in one of its styles
        if len(things) == 2:
            assert things[0] != things[1]
            assert not (masks[0] & masks[1]).any()
            assert not masks[0][:, 32:].any()
            assert not masks[1][:, :32].any()
    assert 110 < alone < 190


def test_scenes_follow_their_generator(icons: np.ndarray) -> None:
    first, again, other = (draw_scene(icons, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


# The autoencoder


def test_train_vae_sets_the_scale_of_its_latents(pictures: Pictures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    before = vae.decoder.conv_out.weight.detach().clone()
    curve = train_vae(vae, pictures, BUDGET, tmp_path / "c")
    assert curve == []
    assert not torch.equal(vae.decoder.conv_out.weight, before)
    assert encode(vae, pictures.images).std().item() * vae.config.scaling_factor == pytest.approx(1, rel=1e-5)


def test_vae_loss_is_written_out(pictures: Pictures, batch_loss: Callable, tmp_path: Path) -> None:
    class Halving(nn.Module):
        """An autoencoder that halves every pixel, with a divergence of 5 an image."""

        def encode(self, x: Tensor) -> SimpleNamespace:
            self.x = x
            return SimpleNamespace(
                latent_dist=SimpleNamespace(sample=lambda: x, mean=x, kl=lambda: torch.full((len(x),), 5.0))
            )

        def decode(self, z: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=z / 2)

        def register_to_config(self, **_: object) -> None:
            pass

    vae = Halving()
    loss = batch_loss(train_vae, vae, pictures, BUDGET, tmp_path / "c")(np.random.default_rng(1)).item()
    x = vae.x.double().numpy()
    want = abs(x / 2).mean() + ((x / 2) ** 2).mean()
    want += sum(abs(np.diff(x / 2, axis=axis)).mean() for axis in (2, 3)) + 1e-6 * 5 / x[0].size
    assert loss == pytest.approx(want, rel=1e-5)
    assert all(any(np.array_equal(one, to_pixels([image])[0]) for image in pictures.images) for one in vae.x)


# The diffusion model


def test_diffusion_loss_is_min_snr_weighted_noise_prediction(
    world: World,
    world_tokenizer: CLIPTokenizer,
    pictures: Pictures,
    batch_loss: Callable,
    spoken: list[str],
    tmp_path: Path,
) -> None:
    class Silent(nn.Module):
        """A U-Net that predicts 0.25 everywhere and keeps what it was given."""

        def forward(self, noisy: Tensor, times: Tensor, states: Tensor) -> SimpleNamespace:
            self.seen = noisy.double(), times, states
            return SimpleNamespace(sample=torch.full_like(noisy, 0.25))

    unet, scheduler, encoder = Silent(), build_scheduler(), build_text_encoder(world_tokenizer).eval()
    latents = torch.full((40, 4, 16, 16), 0.5)
    arguments = unet, encoder, world_tokenizer, scheduler, latents, pictures, world
    loss_of_batch = batch_loss(train_diffusion, *arguments, Budget(2, 16, 1e-3, 4), tmp_path / "c")
    seen_times: list[int] = []
    for seed in range(4):
        loss = loss_of_batch(np.random.default_rng(seed)).item()
        noisy, times, states = unet.seen
        want = 0.0
        for one, time in zip(noisy, times.tolist(), strict=True):
            alpha = scheduler.alphas_cumprod[time].item()
            snr = alpha / (1 - alpha)
            noise = (one - math.sqrt(alpha) * 0.5) / math.sqrt(1 - alpha)
            want += min(snr, 5) / snr * (noise - 0.25).square().mean().item() / 16
        assert loss == pytest.approx(want, rel=1e-3)
        with torch.no_grad():
            assert torch.equal(states, encoder(token_ids(world_tokenizer, spoken)).last_hidden_state)
        seen_times += times.tolist()
    assert min(seen_times) < 150
    assert max(seen_times) > 850


def test_train_diffusion_trains_both_parts(
    world: World, world_tokenizer: CLIPTokenizer, pictures: Pictures, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    unet, encoder = build_unet(), build_text_encoder(world_tokenizer)
    before = unet.conv_in.weight.detach().clone(), encoder.state_dict()
    before = before[0], {name: tensor.clone() for name, tensor in before[1].items()}
    latents = torch.randn(40, 4, 16, 16)
    kept = latents.clone()
    train_diffusion(unet, encoder, world_tokenizer, build_scheduler(), latents, pictures, world, BUDGET, tmp_path / "c")
    assert not torch.equal(unet.conv_in.weight, before[0])
    assert any(not torch.equal(tensor, before[1][name]) for name, tensor in encoder.state_dict().items())
    assert torch.equal(latents, kept)


# The judge


def test_clip_loss_takes_every_fitting_caption_for_a_positive(
    world: World,
    world_tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    batch_loss: Callable,
    spoken: list[str],
    tmp_path: Path,
    drawn: Callable[..., Tensor],
) -> None:
    pictures = make_pictures(icons[:4], 300, seed=2)  # few objects: captions often fit several images
    small = World(world.things[:4], world.styles)
    logits = drawn(24, 24).float() * 3

    def clip(**_: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits_per_image=logits, logits_per_text=logits.mT)

    budget = Budget(2, 24, 1e-3, 4)
    loss_of_batch = batch_loss(train_clip, clip, world_tokenizer, pictures, small, budget, tmp_path / "c")
    meant, several = meanings(small), 0
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(300, size=24)
        loss = loss_of_batch(np.random.default_rng(seed)).item()
        fits = np.zeros((24, 24), bool)
        for i, row in enumerate(rows):
            for j, caption in enumerate(spoken):
                things, style = meant[caption]
                fits[i, j] = pictures.things[row] in things and style in (-1, pictures.styles[row])
        assert fits.diagonal().all()  # each caption fits its own image
        several += fits.sum() - 24
        exp, want = np.exp(logits.double().numpy()), 0.0
        for table, fit in ((exp, fits), (exp.T, fits.T)):
            for k in range(24):
                logs = [math.log(table[k, j] / table[k].sum()) for j in range(24) if fit[k, j]]
                want -= sum(logs) / len(logs) / 24 / 2
        assert loss == pytest.approx(want, rel=1e-4)
    assert several > 100


# The segmenter


def test_clipseg_learns_the_named_objects_mask_and_nothing_for_an_absent_one(
    world: World,
    world_tokenizer: CLIPTokenizer,
    icons: np.ndarray,
    batch_loss: Callable,
    spoken: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenes: list[tuple] = []

    def watched(icons: np.ndarray, rng: np.random.Generator) -> tuple:
        scenes.append(draw_scene(icons, rng))
        return scenes[-1]

    monkeypatch.setattr(recipes, "draw_scene", watched)
    meant, absent, shown = meanings(world), 0, 0

    def clipseg(**asked: Tensor) -> SimpleNamespace:
        """What a perfect segmenter answers, in the images' size."""
        nonlocal absent, shown
        answers = np.zeros((len(spoken), 64, 64), bool)
        for answer, caption, (_, masks, things) in zip(answers, spoken, scenes[-len(spoken) :], strict=True):
            (thing,) = meant[caption][0]
            if thing in things:
                shown += 1
                answer |= masks[things.index(thing)]
            else:
                absent += 1
        assert asked["pixel_values"].shape == (len(spoken), 3, 64, 64)
        return SimpleNamespace(logits=sign * 40 * torch.from_numpy(answers).float() - sign * 20)

    budget = Budget(2, 50, 1e-3, 4)
    loss_of_batch = batch_loss(train_clipseg, clipseg, world_tokenizer, icons, world, budget, tmp_path / "c")
    for seed in range(10):
        sign = 1
        assert loss_of_batch(np.random.default_rng(seed)).item() < 1e-6
        sign = -1
        assert loss_of_batch(np.random.default_rng(seed)).item() == pytest.approx(20, rel=1e-4)
    assert absent / (absent + shown) == pytest.approx(0.2, abs=0.06)
