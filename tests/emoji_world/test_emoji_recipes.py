"""Recipes of the emoji world's models: losses written out again, and what each of them trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from conftest import CPU
from emoji_world import recipes
from emoji_world.captions import Told
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
from emoji_world.recipes import (
    Budget,
    apart_loss,
    bare_words,
    contrastive_loss,
    encode,
    fitting,
    normalise,
    patch_loss,
    softened,
    token_ids,
    train_classifier,
    train_diffusion,
    train_on_captions,
    train_on_patches,
    train_segmenter,
    train_to_name,
    train_vae,
    train_wide_text,
)
from emoji_world.scenes import Mixture, Scenes, Variation, make_scenes
from emoji_world.world import World
from lethe.bases.pixels import to_pixels

BUDGET = Budget(steps=2, batch=4, learning_rate=1e-3, seed=4)
VARIATION = Variation(scale=(0.72, 0.88), shift=3, mirrored=0.5)
OUTLINED = dict(variation=VARIATION, mixture=Mixture(empty=0.0, pairs=0.5, people=0.36, settings=0.12))


@pytest.fixture(scope="module")
def little(world: World) -> World:
    """Some things and people: captions often fit several scenes."""
    return World(world.things[:8], world.styles, world.people[:4])


@pytest.fixture(scope="module")
def little_icons(world: World, icons: np.ndarray) -> np.ndarray:
    """The icons of the little world."""
    return np.concatenate([icons[:8], icons[len(world.things) :][:4]])


@pytest.fixture(scope="module")
def scenes(little: World, little_icons: np.ndarray) -> Scenes:
    mixture = Mixture(empty=0.05, pairs=0.15, people=0.36, settings=0.12)
    return make_scenes(little, little_icons, 40, seed=3, variation=VARIATION, mixture=mixture, ghosts=False)


@pytest.fixture
def clip(world_tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return build_clip(world_tokenizer, text=(32, 1), vision=(32, 4), embedding=16)


@pytest.fixture
def encoder(clip: CLIPModel) -> CLIPTextModel:
    return text_encoder_of(clip).eval()


@pytest.fixture
def batch_loss() -> Callable[..., Callable[[np.random.Generator], Tensor]]:
    """`batch_loss(recipe, *arguments)`: loss of the batch that a generator draws; the training loop does not run."""

    def loss_of(recipe: Callable, *arguments: object, **options: object) -> Callable[[np.random.Generator], Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            given: list[Callable] = []
            patch.setattr(recipes, "train", lambda modules, *functions, **_: given.extend(functions))
            recipe(*arguments, **options)
            draw, loss = given
            return lambda rng, device=CPU: loss(*(one.to(device) for one in draw(rng)))

    return loss_of


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# What is shared


def test_normalise_is_clips(drawn: Callable[..., Tensor]) -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 1, 3)
    want = [(np.array([0, 0.5, 1]) - m) / s for m, s in zip(recipes.MEAN, recipes.STD, strict=True)]
    assert torch.allclose(normalise(pixels)[0, :, 0], torch.tensor(np.stack(want)).float())


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_encode_gives_posterior_means_unscaled(scenes: Scenes, batch: int) -> None:
    torch.manual_seed(0)
    vae = build_vae(widths=(8, 8, 8)).eval()
    latents = encode(vae, scenes.images[:6], batch=batch)
    assert latents.shape == (6, 4, 16, 16)
    assert not latents.requires_grad
    with torch.no_grad():
        for latent, image in zip(latents, scenes.images, strict=False):
            assert torch.allclose(latent, vae.encode(to_pixels([image])).latent_dist.mean[0], atol=1e-4)


def test_half_of_the_batches_are_softened_and_keep_what_they_show(drawn: Callable[..., Tensor]) -> None:
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[:, :, 16:48, 16:48] = 1
    found = [softened(pixels, np.random.default_rng(seed)) for seed in range(200)]
    same = [one is pixels for one in found]
    assert 70 < sum(same) < 130
    for one in (one for one in found if one is not pixels):
        assert one.shape == pixels.shape
        assert abs(one - pixels).mean() < 0.1
        assert not torch.equal(one, pixels)


# The autoencoder


def test_train_vae_sets_the_scale_of_its_latents(scenes: Scenes, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae(widths=(8, 8, 8))
    before = vae.decoder.conv_out.weight.detach().clone()
    curve = train_vae(vae, scenes.images, BUDGET, tmp_path / "c")
    assert curve == []
    assert not torch.equal(vae.decoder.conv_out.weight, before)
    assert encode(vae, scenes.images).std().item() * vae.config.scaling_factor == pytest.approx(1, rel=1e-5)


def test_vae_loss_is_written_out(scenes: Scenes, batch_loss: Callable, tmp_path: Path) -> None:
    class Halving(nn.Module):
        """An autoencoder that halves every pixel; latents of mean 3 and deviation 2, a divergence of 5 an image."""

        device = CPU

        def encode(self, x: Tensor) -> SimpleNamespace:
            self.x = x
            mean = torch.linspace(2.99, 3.01, len(x) * 1024).reshape(-1, 4, 16, 16)
            return SimpleNamespace(
                latent_dist=SimpleNamespace(mean=mean, std=2.0, kl=lambda: torch.full((len(x),), 5.0))
            )

        def decode(self, z: Tensor) -> SimpleNamespace:
            assert z.mean().item() == pytest.approx(3, abs=0.15)
            assert z.std().item() == pytest.approx(2, abs=0.1)
            return SimpleNamespace(sample=self.x / 2)

        def register_to_config(self, **_: object) -> None:
            pass

    vae = Halving()
    loss = batch_loss(train_vae, vae, scenes.images, BUDGET, tmp_path / "c")(np.random.default_rng(1)).item()
    x = vae.x.double().numpy()
    want = abs(x / 2).mean() + ((x / 2) ** 2).mean()
    want += sum(abs(np.diff(x / 2, axis=axis)).mean() for axis in (2, 3)) + 1e-6 * 5 / x[0].size
    assert loss == pytest.approx(want, rel=1e-5)
    assert all(any(np.array_equal(one, to_pixels([image])[0]) for image in scenes.images) for one in vae.x)


# The diffusion model: words that carry meaning


def test_bare_words_keep_their_states_and_lose_what_comes_after(world_tokenizer: CLIPTokenizer) -> None:
    captions = ["a photo of the ship", "a cat", "", "a photo of the ship"]
    ids = token_ids(world_tokenizer, captions)
    states, empty = torch.randn(4, 28, 8), torch.randn(28, 8)
    kept = states.clone()
    chosen = torch.tensor([True, True, True, False])
    bare = bare_words(states, ids, chosen, empty=empty, end=world_tokenizer.eos_token_id)
    for row, words in enumerate((6, 3, 1, 28)):  # the start of text and the words
        assert torch.equal(bare[row, :words], states[row, :words])
        assert torch.equal(bare[row, words:], empty[words:])
    assert torch.equal(states, kept)


def test_the_empty_caption_is_bare_already(world_tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
    ids = token_ids(world_tokenizer, [""])
    with torch.no_grad():
        states = encoder(ids).last_hidden_state
    bare = bare_words(states, ids, torch.tensor([True]), empty=states[0], end=world_tokenizer.eos_token_id)
    assert torch.equal(bare, states)


@pytest.mark.parametrize("bare", [0.0, 1.0])
def test_diffusion_loss_is_min_snr_weighted_and_bares_its_share(
    little: World,
    world_tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    scenes: Scenes,
    monkeypatch: pytest.MonkeyPatch,
    bare: float,
) -> None:
    class Silent(nn.Module):
        """A U-Net that predicts 0.25 everywhere and keeps what it was given."""

        device = CPU

        def forward(self, noisy: Tensor, times: Tensor, states: Tensor) -> SimpleNamespace:
            self.seen = noisy.double(), times, states
            return SimpleNamespace(sample=torch.full_like(noisy, 0.25))

    spoken: list[str] = []
    told: dict = {}

    def hear(_: dict, draw: Callable, loss: Callable, **options: object) -> None:
        told.update(options, loss=lambda rng: loss(*draw(rng)))

    monkeypatch.setattr(recipes, "train", hear)
    monkeypatch.setattr(
        recipes, "token_ids", lambda tokenizer, texts: spoken.append(texts) or token_ids(tokenizer, texts)
    )
    unet, scheduler = Silent(), build_scheduler()
    latents = torch.full((40, 4, 16, 16), 0.5, dtype=torch.float16)
    train_diffusion(
        *(unet, encoder, world_tokenizer, scheduler, latents, scenes, little, BUDGET, Path("c")),
        **dict(text_rate=0.2, bare=bare),
    )
    seen_times: list[int] = []
    assert told["rates"] == {"text_encoder": 0.2}
    for seed in range(12):
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
        seen_times += times.tolist()
        for row in range(BUDGET.batch):
            words = int((ids[row] == world_tokenizer.eos_token_id).int().argmax())
            assert torch.equal(states[row, :words], whole[row, :words])
            assert torch.equal(states[row, words:], (whole[-1] if bare else whole[row])[words:])
    assert min(seen_times) < 150
    assert max(seen_times) > 850


def test_text_and_unet_train_together(
    little: World, world_tokenizer: CLIPTokenizer, encoder: CLIPTextModel, scenes: Scenes, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    unet = build_unet(widths=(8, 16, 24), text_width=32)
    before = copied(unet), copied(encoder)
    latents = torch.randn(40, 4, 16, 16)
    kept = latents.clone()
    train_diffusion(
        *(unet, encoder, world_tokenizer, build_scheduler(), latents, scenes, little, BUDGET, tmp_path / "c"),
        **dict(text_rate=0.1, bare=0.5),
    )
    assert moved(unet, before[0])
    assert moved(encoder, before[1])
    assert torch.equal(latents, kept)


# The judges


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


def test_judges_learn_from_every_caption_of_a_batch_that_fits(
    little: World,
    world_tokenizer: CLIPTokenizer,
    scenes: Scenes,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
    drawn: Callable[..., Tensor],
) -> None:
    """The loss of a batch, from what was said of it and the scenes that were drawn, each caption asked again."""
    told: list[Told] = []
    inner = recipes.Speaker.tell

    def listen(speaker: object, *given: object) -> Told:
        told.append(inner(speaker, *given))
        return told[-1]

    monkeypatch.setattr(recipes.Speaker, "tell", listen)
    logits, several = drawn(24, 24).float() * 3, 0

    class Fixed(nn.Module):
        device = CPU

        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
            assert torch.equal(input_ids, token_ids(world_tokenizer, [one.text for one in told]))
            self.pixels = pixel_values
            return SimpleNamespace(logits_per_image=logits)

    clip, budget = Fixed(), Budget(2, 24, 1e-3, 4)
    loss_of_batch = batch_loss(
        train_on_captions, clip, world_tokenizer, scenes, little, budget, Path("c"), soften=False
    )
    for seed in range(5):
        told.clear()
        loss = loss_of_batch(np.random.default_rng(seed)).item()
        rows = np.random.default_rng(seed).integers(40, size=24)
        assert torch.equal(clip.pixels, normalise(to_pixels(scenes.images[rows])))
        fits = np.zeros((24, 24), bool)
        for i, row in enumerate(rows):
            here = tuple(one for one in scenes.subjects[row].tolist() if one >= 0)
            for j, one in enumerate(told):
                said = len(one.subjects) == len(here) and all(a in b for a, b in zip(here, one.subjects, strict=True))
                place = one.place in (-1, scenes.places[row])
                fits[i, j] = said and place and one.style in (-1, scenes.styles[row])
        assert fits.diagonal().all()  # each caption fits its own image
        several += fits.sum() - 24
        exp, want = np.exp(logits.double().numpy()), 0.0
        for table, fit in ((exp, fits), (exp.T, fits.T)):
            for k in range(24):
                logs = [math.log(table[k, j] / table[k].sum()) for j in range(24) if fit[k, j]]
                want -= sum(logs) / len(logs) / 24 / 2
        assert loss == pytest.approx(want, rel=1e-4)
    assert several > 100


@pytest.mark.parametrize("soften", [True, False])
def test_train_on_captions_trains_both_towers(
    little: World, world_tokenizer: CLIPTokenizer, clip: CLIPModel, scenes: Scenes, tmp_path: Path, soften: bool
) -> None:
    before = copied(clip)
    train_on_captions(clip, world_tokenizer, scenes, little, BUDGET, tmp_path / "c", soften=soften)
    names = moved(clip, before)
    assert {"text_projection.weight", "visual_projection.weight", "logit_scale"} <= names


# A wide text encoder


def test_states_are_told_apart_by_their_cosines(drawn: Callable[..., Tensor]) -> None:
    one, other = drawn(5, 8), drawn(5, 8) + 2
    mean = [sum(column) / 10 for column in zip(*one.tolist(), *other.tolist(), strict=True)]

    def cosine(a: list[float], b: list[float]) -> float:
        a, b = ([x - m for x, m in zip(v, mean, strict=True)] for v in (a, b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    table = [[math.exp(10 * cosine(a, b)) for b in other.tolist()] for a in one.tolist()]
    ways = table, list(zip(*table, strict=True))
    want = -sum(math.log(way[k][k] / sum(way[k])) for way in ways for k in range(5)) / 10
    assert apart_loss(one, other).item() == pytest.approx(want, rel=1e-12)


@pytest.fixture
def wide(world_tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, nn.Linear]:
    """A text encoder 48 wide, and a readout to 32."""
    torch.manual_seed(1)
    return build_text_encoder(world_tokenizer, text=(48, 1)), nn.Linear(48, 32, bias=False)


@torch.no_grad()
def test_a_wide_encoder_learns_narrow_states_and_to_tell_names_apart(
    little: World,
    world_tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    wide: tuple[CLIPTextModel, nn.Linear],
    scenes: Scenes,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four captions, and 3 of 4 people in two phrasings: each token by hand, names apart by three states of each."""
    spoken: list[list[str]] = []
    monkeypatch.setattr(
        recipes, "token_ids", lambda tokenizer, texts: spoken.append(texts) or token_ids(tokenizer, texts)
    )
    student, readout = wide
    loss_of_batch = batch_loss(
        train_wide_text,
        student,
        readout,
        encoder,
        world_tokenizer,
        scenes,
        little,
        BUDGET,
        Path("c"),
        people=3,
        apart=0.3,
    )
    ids = token_ids(world_tokenizer, spoken[0])  # drawn first of all: how far the narrow states are spread
    states = encoder(ids).last_hidden_state.flatten(0, 1).double().numpy()
    spread = ((states - states.mean(0)) ** 2).sum(1).mean()
    names, phrasings = [person.name for person in little.people], set()
    for seed in range(8):
        spoken.clear()
        loss = loss_of_batch(np.random.default_rng(seed)).item()
        captions, prompts = spoken
        named = [next(name for name in names if text.endswith(name)) for text in prompts]
        assert named[:3] == named[3:]
        assert len(set(named)) == 3
        phrasings |= {text.removesuffix(name) for text, name in zip(prompts, named, strict=True)}
        want, own = 0.0, []
        for texts in (captions, prompts):
            total = weight = 0.0
            for text in texts:
                told = len(world_tokenizer(text).input_ids)  # with start and end
                row = token_ids(world_tokenizer, [text])
                found, wanted = student(row).last_hidden_state[0], encoder(row).last_hidden_state[0]
                for place in range(len(found)):
                    counts = 1.0 if 0 < place < told else 0.1
                    total += counts * (readout(found[place]) - wanted[place]).double().square().sum().item()
                    weight += counts
                own.append(found[[told - 2, told - 1, -1]])
            want += total / weight / spread / 2
        places = torch.stack(own, dim=1)
        apart = sum(apart_loss(states[4:7], states[7:]).item() for states in places) / 3
        assert loss == pytest.approx(want + 0.3 * apart, rel=1e-4)
    assert len(phrasings) > 8


def test_train_wide_text_leaves_the_narrow_encoder_alone(
    little: World,
    world_tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    wide: tuple[CLIPTextModel, nn.Linear],
    scenes: Scenes,
    tmp_path: Path,
) -> None:
    before, student = copied(encoder), [copied(module) for module in wide]
    given = (*wide, encoder, world_tokenizer, scenes, little, BUDGET, tmp_path / "c")
    train_wide_text(*given, people=3, apart=0.1)
    assert not moved(encoder, before)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(moved(module, old) for module, old in zip(wide, student, strict=True))


def test_judges_learn_to_tell_names_beside_captions(
    little: World,
    world_tokenizer: CLIPTokenizer,
    scenes: Scenes,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
    drawn: Callable[..., Tensor],
) -> None:
    """Of 12 subjects 9 are named in a step, those of the batch first; the loss is that of captions and of the names."""
    monkeypatch.setattr(recipes, "NAMES", 9)
    spoken: list[str] = []
    fits: list[Tensor] = []
    monkeypatch.setattr(
        recipes, "token_ids", lambda tokenizer, texts: spoken.extend(texts) or token_ids(tokenizer, texts)
    )
    monkeypatch.setattr(recipes, "fitting", lambda *said: fits.append(fitting(*said)) or fits[-1])
    logits = drawn(6, 15).float() * 3

    class Fixed(nn.Module):
        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
            assert len(input_ids) == 15
            return SimpleNamespace(logits_per_image=logits)

    loss_of_batch = batch_loss(
        train_to_name, Fixed(), world_tokenizer, scenes, little, Budget(2, 6, 1e-3, 4), Path("c")
    )
    alone = np.flatnonzero((scenes.subjects[:, 0] >= 0) & (scenes.subjects[:, 1] < 0))
    names = [one.name for one in little.subjects]
    styled = 0
    for seed in range(12):
        spoken.clear()
        loss = loss_of_batch(np.random.default_rng(seed)).item()
        shown = scenes.subjects[np.random.default_rng(seed).choice(alone, size=6), 0]
        prompts = spoken[6:]
        named = [next(k for k, name in enumerate(names) if f" {name} " in f" {text} ") for text in prompts]
        assert len(set(named)) == 9
        assert set(shown) <= set(named)
        styled += all("in the style of" in prompt for prompt in prompts)
        want = contrastive_loss(logits[:, :6].double(), fits[-1].double()).item()
        for scores, subject in zip(logits[:, 6:].double().tolist(), shown, strict=True):
            want += (math.log(sum(map(math.exp, scores))) - scores[named.index(subject)]) / 6
        assert loss == pytest.approx(want, rel=1e-5)
    assert 0 < styled < 8


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
    pixels = normalise(to_pixels(images[:2]))
    assert classifier(pixels).logits.argmax(1).tolist() == [0, 1]


def test_classifier_loss_is_smoothed_cross_entropy_of_the_subject(
    scenes: Scenes, batch_loss: Callable, drawn: Callable[..., Tensor]
) -> None:
    logits = drawn(4, 12).float()

    class Fixed(nn.Module):
        device = CPU

        def forward(self, pixels: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=logits)

    alone = np.flatnonzero(scenes.subjects[:, 0] >= 0)
    some = Scenes(*(values[alone] for values in vars(scenes).values()))
    loss = batch_loss(train_classifier, Fixed(), some, BUDGET, Path("c"))(np.random.default_rng(3)).item()
    rows, want = np.random.default_rng(3).integers(len(alone), size=4), 0.0
    for row, scores in zip(rows, logits.double().tolist(), strict=True):
        everything = math.log(sum(map(math.exp, scores)))
        wanted = [0.05 / 12 + 0.95 * (k == some.subjects[row, 0]) for k in range(12)]
        want -= sum(p * (score - everything) for p, score in zip(wanted, scores, strict=True)) / 4
    assert loss == pytest.approx(want, rel=1e-5)


# The segmenter


def test_patch_loss_by_hand() -> None:
    torch.manual_seed(2)
    patches, names = F.normalize(torch.randn(3, 4, 5).double(), dim=2), F.normalize(torch.randn(3, 5).double(), dim=1)
    subjects, covered = torch.tensor([7, 2, 7]), torch.rand(3, 4).double()
    want = total = 0.0
    for row in range(3):
        others = [one for one in range(3) if one == row or subjects[one] != subjects[row]]
        for patch in range(4):
            scores = {one: math.exp(6 * float(patches[row, patch] @ names[one])) for one in others}
            want -= covered[row, patch].item() * math.log(scores[row] / sum(scores.values()))
            total += covered[row, patch].item()
    given = (patches, names, torch.tensor(6.0).double().log(), subjects, covered)
    assert patch_loss(*given).item() == pytest.approx(want / total, rel=1e-12)


def test_patches_are_told_by_the_names_of_what_covers_them(
    little: World,
    world_tokenizer: CLIPTokenizer,
    little_icons: np.ndarray,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that says of each patch what stands there has next to no loss, and one that errs has a loss."""
    seen: list[tuple] = []
    inner = recipes.draw_scene

    def listen(world: World, icons: np.ndarray, outlines: object, contents: tuple, *rest: object) -> tuple:
        image, masks = inner(world, icons, outlines, contents, *rest)
        seen.append((contents[0], masks))
        return image, masks

    monkeypatch.setattr(recipes, "draw_scene", listen)
    spoken: list[str] = []
    monkeypatch.setattr(
        recipes, "token_ids", lambda tokenizer, texts: spoken.extend(texts) or token_ids(tokenizer, texts)
    )
    n = len(little.subjects)

    def said(prompt: str) -> int:
        (one,) = [
            k for k, who in enumerate(little.subjects) if any(w in prompt for w in getattr(who, "words", (who.name,)))
        ]
        return one

    def patches(pixel_values: Tensor) -> SimpleNamespace:
        states = torch.zeros(len(pixel_values), 65, n)
        for states_of, (subjects, masks) in zip(states, seen, strict=True):
            for subject, mask in zip(subjects, masks, strict=True):
                for patch in range(64):
                    y, x = divmod(patch, 8)
                    inside = mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].any()
                    states_of[1 + patch, (subject + wrong) % n] += float(inside)
        return SimpleNamespace(last_hidden_state=states)

    patches.post_layernorm = nn.Identity()
    perfect = SimpleNamespace(
        vision_model=patches,
        text_model=lambda input_ids: SimpleNamespace(
            pooler_output=F.one_hot(torch.tensor([said(p) for p in spoken]), n).float()
        ),
        visual_projection=nn.Identity(),
        text_projection=nn.Identity(),
        logit_scale=torch.tensor(50.0).log(),
        config=SimpleNamespace(vision_config=SimpleNamespace(patch_size=8)),
    )
    given = (perfect, world_tokenizer, little_icons, little, Budget(2, 40, 1e-3, 4), Path("c"))
    loss = batch_loss(train_on_patches, *given, **OUTLINED)
    wrong = 0
    right_loss = loss(np.random.default_rng(1)).item()
    assert len(spoken) == 80
    assert {len(subjects) for subjects, _ in seen} == {1, 2}
    for k, (subjects, _) in enumerate(seen):
        named = [said(prompt) for prompt in spoken[2 * k : 2 * k + 2]]
        assert tuple(named[: len(subjects)]) == subjects
        assert len(set(named)) == 2
    seen.clear()
    spoken.clear()
    wrong = 1
    assert loss(np.random.default_rng(1)).item() > 10
    assert right_loss < 0.3  # at patches that two subjects share a name stands for half


def test_train_on_patches_trains_both_towers(
    little: World, world_tokenizer: CLIPTokenizer, clip: CLIPModel, little_icons: np.ndarray, tmp_path: Path
) -> None:
    before = copied(clip)
    train_on_patches(clip, world_tokenizer, little_icons, little, BUDGET, tmp_path / "c", **OUTLINED)
    towers = {name.split(".")[0] for name in moved(clip, before)}
    assert towers == {"vision_model", "text_model", "visual_projection", "text_projection", "logit_scale"}


def test_train_segmenter_leaves_the_judge_as_it_is(
    little: World, world_tokenizer: CLIPTokenizer, clip: CLIPModel, little_icons: np.ndarray, tmp_path: Path
) -> None:
    segmenter = build_clipseg(clip)
    before = copied(segmenter)
    train_segmenter(segmenter, world_tokenizer, little_icons, little, BUDGET, tmp_path / "c", **OUTLINED)
    names = moved(segmenter, before)
    assert names
    assert all(name.startswith("decoder.") for name in names)


def test_segmenters_are_asked_for_what_is_there_and_for_what_is_not(
    little: World,
    little_icons: np.ndarray,
    world_tokenizer: CLIPTokenizer,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple] = []
    inner = recipes._asked

    def listen(subjects: tuple, masks: list, shown: np.ndarray, rng: np.random.Generator) -> tuple:
        subject, target = inner(subjects, masks, shown, rng)
        asked.append((subjects, masks, subject, target))
        return subject, target

    monkeypatch.setattr(recipes, "_asked", listen)
    spoken: list[str] = []
    monkeypatch.setattr(
        recipes, "token_ids", lambda tokenizer, texts: spoken.extend(texts) or token_ids(tokenizer, texts)
    )

    def perfect(input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
        """What is asked for, surely; with `sign` -1 the contrary."""
        assert pixel_values.shape == (300, 3, 64, 64)
        targets = np.stack([target for *_, target in asked])
        return SimpleNamespace(logits=sign * (40 * torch.from_numpy(targets).float() - 20))

    perfect.device = CPU
    budget = Budget(2, 300, 1e-3, 4)
    loss = batch_loss(train_segmenter, perfect, world_tokenizer, little_icons, little, budget, Path("c"), **OUTLINED)
    sign = -1
    assert loss(np.random.default_rng(1)).item() == pytest.approx(20, rel=1e-4)
    asked.clear()
    spoken.clear()
    sign = 1
    assert loss(np.random.default_rng(1)).item() < 1e-6
    absent = [subject not in subjects for subjects, _, subject, _ in asked]
    assert np.mean(absent) == pytest.approx(0.2, abs=0.08)
    for (subjects, masks, subject, target), none, prompt in zip(asked, absent, spoken, strict=True):
        assert np.array_equal(target, np.zeros((64, 64), bool) if none else masks[subjects.index(subject)])
        one = little.subjects[subject]
        assert any(word in prompt for word in getattr(one, "words", (one.name,)))


# Devices


def test_recipes_train_where_their_networks_lie(
    little: World,
    world_tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    encoder: CLIPTextModel,
    scenes: Scenes,
    little_icons: np.ndarray,
    batch_loss: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the meta device, which mixes with no other: whatever of a batch stayed behind on the CPU would be refused."""
    there = torch.device("meta")
    monkeypatch.setattr(recipes, "encode", lambda *_: torch.tensor([1.0, 2.0]))
    vae, unet = build_vae(widths=(8, 8, 8)).to(there), build_unet(widths=(8, 16, 24), text_width=32).to(there)
    segmenter = build_clipseg(clip).to(there)
    clip, encoder, wide = clip.to(there), encoder.to(there), build_text_encoder(world_tokenizer, text=(48, 1)).to(there)

    def check(_: nn.Module, given: tuple, named: dict) -> None:
        """Tables of embeddings take indices from anywhere, on the meta device."""
        assert {one.device for one in (*given, *named.values()) if isinstance(one, Tensor)} == {there}

    for network in (clip, encoder, wide, segmenter):
        network.register_forward_pre_hook(check, with_kwargs=True)
    alone = Scenes(*(values[scenes.subjects[:, 0] >= 0] for values in vars(scenes).values()))
    speaks, end = (world_tokenizer, scenes, little, BUDGET, Path("c")), (BUDGET, Path("c"))
    diffused = (unet, encoder, world_tokenizer, build_scheduler(), torch.randn(40, 4, 16, 16), scenes, little, *end)
    losses = [
        batch_loss(train_vae, vae, scenes.images, *end),
        batch_loss(train_on_captions, clip, *speaks, soften=True),
        batch_loss(train_diffusion, *diffused, text_rate=0.1, bare=0.5),
        batch_loss(train_wide_text, wide, nn.Linear(48, 32).to(there), encoder, *speaks, people=3, apart=0.1),
        batch_loss(train_classifier, build_classifier(["a"] * 12, widths=(8, 8)).to(there), alone, *end),
        batch_loss(train_on_patches, clip, world_tokenizer, little_icons, little, *end, **OUTLINED),
        batch_loss(train_segmenter, segmenter, world_tokenizer, little_icons, little, *end, **OUTLINED),
    ]
    for loss in losses:
        assert loss(np.random.default_rng(1), there).device == there
