"""ESD with a contrastive term: the loss from the pipeline's own predictions, and ESD itself where the term is 0."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

import lethe
from conftest import CPU
from guided import as_read
from lethe.bases.base import Base
from lethe.bases.diffusion import noised, target
from lethe.bases.pipeline import load_pipeline, use_scheduler
from lethe.config.schema import defaults_of
from lethe.erasure import training
from lethe.inputs.concepts import Concept
from lethe.methods import esd, esd_contrastive
from lethe.plugins import manifest
from trained import cut_off

DEFAULTS = defaults_of(manifest("methods", "esd-contrastive").settings) | {"seed": 5}
BRIEF = dict(steps=3, learning_rate=1e-3, sampling_steps=4)
SHIP = [Concept("ship", "object", "ground")]


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] = SHIP, **changes: object) -> dict[str, Tensor]:
    return esd_contrastive.erase(Base.of_pipeline(pipeline), concepts, DEFAULTS | BRIEF | changes, {}).weights


# The loss


def prediction(pipeline: DiffusionPipeline, unet: UNet2DConditionModel, x: Tensor, t: int, prompt: str) -> Tensor:
    states, added = as_read(pipeline, prompt)
    return unet(x, torch.tensor(t), encoder_hidden_states=states, added_cond_kwargs=added).sample


def loss_by_hand(
    pipeline: DiffusionPipeline, student: UNet2DConditionModel, drawn: torch.Generator, chosen: dict
) -> Tensor:
    """One step's loss about a ship: ESD's, and the term as exponentials and a quotient, in float64."""
    torch.randint(1, (), generator=drawn)  # which concept
    done = int(torch.randint(chosen["sampling_steps"], (), generator=drawn))
    x = noise = torch.randn(1, 4, 8, 8, generator=drawn)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(chosen["sampling_steps"])
    with torch.no_grad():
        for time in scheduler.timesteps[:done]:
            of_empty, of_ship = (prediction(pipeline, student, x, int(time), words) for words in ("", "ship"))
            x = scheduler.step(of_empty + 3.0 * (of_ship - of_empty), time, x).prev_sample
        if chosen["augmentation"] == "mirror" and int(torch.randint(2, (), generator=drawn)):
            x, noise = x[..., [7, 6, 5, 4, 3, 2, 1, 0]], noise[..., [7, 6, 5, 4, 3, 2, 1, 0]]
        t = int(scheduler.timesteps[done])
        e_0, e_c = (prediction(pipeline, pipeline.unet, x, t, words).double() for words in ("", "ship"))
    wanted = e_0 - (e_c - e_0)
    alpha = float(scheduler.alphas_cumprod[t])
    clean = (x.double() - math.sqrt(1 - alpha) * noise.double()) / math.sqrt(alpha)
    of_noise = noise.double()
    if scheduler.config.prediction_type == "v_prediction":
        of_noise = math.sqrt(alpha) * of_noise - math.sqrt(1 - alpha) * clean
    e = prediction(pipeline, student, x, t, "ship").double()
    compared = [wanted, e_c, *([of_noise] if chosen["noise_negative"] else [])]
    powers = [
        torch.exp((e * z).sum() / (e.square().sum() * z.square().sum()).sqrt() / chosen["temperature"])
        for z in compared
    ]
    return (e - wanted).square().mean() - chosen["weight"] * torch.log(powers[0] / sum(powers))


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(noise_negative=False, augmentation="none", weight=2.0, temperature=0.5),
    ],
    ids=["published", "other"],
)
def test_every_step_follows_the_gradient_of_the_formula(
    base_pipeline: DiffusionPipeline, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain descent in place of Adam, against a copy of the U-Net that is changed in place."""
    monkeypatch.setitem(training.OPTIMISERS, "adam", torch.optim.SGD)
    use_scheduler(base_pipeline, "ddim")
    chosen = DEFAULTS | BRIEF | dict(learning_rate=0.02, weight_decay=0.1) | changes
    found = erased(base_pipeline, **chosen)
    student, drawn = copy.deepcopy(base_pipeline.unet).requires_grad_(True), torch.Generator().manual_seed(5)
    trained = {name: p for name, p in student.named_parameters() if ".attn2." in name}
    for _ in range(chosen["steps"]):
        loss = loss_by_hand(base_pipeline, student, drawn, chosen)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        with torch.no_grad():
            for parameter, gradient in zip(trained.values(), gradients, strict=True):
                parameter -= 0.02 * (gradient + 0.1 * parameter)
    assert found.keys() == trained.keys()
    for name, weight in found.items():
        before = base_pipeline.unet.get_parameter(name).detach()
        moved = trained[name].detach() - before
        assert torch.linalg.vector_norm(weight - before - moved) <= 2e-3 * torch.linalg.vector_norm(moved) + 1e-6, name
    assert any(not torch.equal(weight, base_pipeline.unet.get_parameter(name)) for name, weight in found.items())


@pytest.mark.parametrize(("form", "parameters"), [("paper", "x"), (2025, "u")])
def test_without_what_is_added_it_is_esd_to_the_bit(
    base_folder: Path, base_pipeline: DiffusionPipeline, form: str | int, parameters: str
) -> None:
    shared = dict(form=form, parameters=parameters, **BRIEF)
    plain = lethe.erase(base_pipeline, SHIP, "esd", **shared)
    bare = dict(weight=0.0, weight_decay=0.0, augmentation="none")
    same = lethe.erase(base_pipeline, SHIP, "esd-contrastive", **shared, **bare)
    assert same.weights.keys() == plain.weights.keys()
    assert all(torch.equal(same.weights[name], weight) for name, weight in plain.weights.items())
    for one in (dict(weight=0.5), dict(weight_decay=0.1), dict(augmentation="mirror")):
        other = lethe.erase(base_pipeline, SHIP, "esd-contrastive", **shared, **bare | one)
        assert not all(torch.equal(other.weights[name], weight) for name, weight in plain.weights.items()), one


def test_the_term_is_infonce(drawn: Callable[..., Tensor]) -> None:
    output, positive, *others = (drawn(4, 3, 3, seed=k) for k in range(4))
    cosines = [
        sum(a * b for a, b in zip(output.flatten().tolist(), z.flatten().tolist(), strict=True))
        / math.dist(output.flatten().tolist(), [0] * 36)
        / math.dist(z.flatten().tolist(), [0] * 36)
        for z in (positive, *others)
    ]
    powers = [math.exp(cosine / 0.07) for cosine in cosines]
    got = esd_contrastive.contrast(output, positive, others, 0.07)
    assert got.item() == pytest.approx(-math.log(powers[0] / sum(powers)), rel=1e-9)
    assert esd_contrastive.contrast(output, positive, [positive] * 2, 0.3).item() == pytest.approx(math.log(3))
    assert esd_contrastive.contrast(output, 5 * positive, others, 0.07).item() == pytest.approx(got.item())  # lengths
    assert esd_contrastive.contrast(positive, positive, [-positive], 0.07).item() < 1e-9


@pytest.mark.parametrize("time", [3, 500, 990])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_noise_is_compared_as_what_would_predict_it(drawn: Callable[..., Tensor], kind: str, time: int) -> None:
    """Of latents that are some clean ones with that noise, it is the target of training on them, up to its length."""
    clean, noise = drawn(1, 4, 5, 5, seed=1).float(), drawn(1, 4, 5, 5, seed=2).float()
    alphas, times = torch.linspace(0.999, 0.005, 1000), torch.tensor([time])
    latents = noised(clean, noise, alphas, times)
    nothing = torch.zeros(4, 5, 5)
    seen = esd.Seen(latents[0], times[0], noise[0], nothing, nothing, nothing)
    got, want = esd_contrastive.of_noise(seen, alphas, kind), target(clean, noise, alphas, times, kind)[0]
    assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 1 - 1e-4


def test_half_of_the_draws_are_mirrored(drawn: Callable[..., Tensor]) -> None:
    latents, noise = drawn(1, 4, 5, 6, seed=1), drawn(1, 4, 5, 6, seed=2)
    generator, turned = torch.Generator().manual_seed(1), 0
    for _ in range(400):
        got = esd_contrastive.mirrored(latents, noise, generator)
        if not torch.equal(got[0], latents):
            turned += 1
            assert all(torch.equal(got[0][..., k], latents[..., 5 - k]) for k in range(6))
            assert all(torch.equal(got[1][..., k], noise[..., 5 - k]) for k in range(6))
        else:
            assert torch.equal(got[1], noise)
    assert 150 < turned < 250


# What trains, repeats, and what is refused


def test_nothing_else_changes_and_all_comes_back(base_pipeline: DiffusionPipeline) -> None:
    before = {name: value.clone() for name, value in base_pipeline.unet.state_dict().items()}
    edit = lethe.erase(base_pipeline, SHIP, "esd-contrastive", **BRIEF)
    assert all(".attn2." in name for name in edit.weights)
    assert all(torch.equal(value, before[name]) for name, value in base_pipeline.unet.state_dict().items())
    edit.install(base_pipeline)
    now = base_pipeline.unet.state_dict()
    changed = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(edit.weights)
    edit.remove(base_pipeline)
    assert all(torch.equal(value, before[name]) for name, value in base_pipeline.unet.state_dict().items())


def test_the_same_seed_gives_the_same_bytes(pipeline: DiffusionPipeline) -> None:
    first, again, other = (erased(pipeline, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(sd2_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd2_folder), None, device=CPU, precision=precision)
    found = erased(pipeline, steps=2)
    assert all(weight.dtype == pipeline.unet.dtype and weight.isfinite().all() for weight in found.values())


def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BRIEF | dict(steps=6)
    whole = lethe.erase(pipeline, SHIP, "esd-contrastive", **options)
    calls = cut_off(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, SHIP, "esd-contrastive", workspace=tmp_path, **options)
    before = len(calls)
    resumed = lethe.erase(pipeline, SHIP, "esd-contrastive", workspace=tmp_path, **options)
    assert len(calls) - before == 2
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


@pytest.mark.parametrize(
    ("concepts", "changes", "said"),
    [
        ([], {}, "esd-contrastive: `concepts` must hold at least one concept; got none"),
        (SHIP, dict(erase_from="a picture"), "esd-contrastive: erase_from belongs to form 2025"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        erased(pipeline, concepts, **changes)


def test_it_says_that_it_is_an_experiment() -> None:
    about = manifest("methods", "esd-contrastive").about
    assert about.startswith("An EXPERIMENT of this project, not a published method.")
    assert esd_contrastive.__doc__.startswith("An experiment: ")
