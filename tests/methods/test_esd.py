"""ESD: its loss from the pipeline's own predictions, what trains under each choice, and that nothing else moves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

import lethe
from conftest import CPU, unet_inputs
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline, use_scheduler
from lethe.erasure import training
from lethe.inputs.concepts import Concept
from lethe.methods import esd
from lethe.plugins import manifest
from trained import cut_off

MANIFEST = manifest("methods", "esd")
DEFAULTS = {name: rule["default"] for name, rule in MANIFEST.settings["properties"].items()} | {"seed": 5}
BRIEF = dict(steps=3, learning_rate=1e-3, sampling_steps=4)
SHIP = [Concept("ship", "object", "ground")]


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] = SHIP, **changes: object) -> dict[str, Tensor]:
    return esd.erase(Base.of_pipeline(pipeline), concepts, DEFAULTS | BRIEF | changes, {}).weights


# The loss


def states(pipeline: DiffusionPipeline, prompts: list[str]) -> dict[str, Any]:
    """What the U-Net reads of prompts, from the pipeline's own encoder."""
    parts = pipeline.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    found: dict[str, Any] = {"encoder_hidden_states": parts[0], "added_cond_kwargs": {}}
    if len(parts) == 4:
        ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * len(prompts))
        found["added_cond_kwargs"] = {"text_embeds": parts[2], "time_ids": ids}
    return found


def predictions(
    pipeline: DiffusionPipeline, unet: UNet2DConditionModel, x: Tensor, t: int, prompts: list[str]
) -> Tensor:
    return torch.cat([unet(x, torch.tensor(t), **states(pipeline, [prompt])).sample for prompt in prompts])


def loss_by_hand(
    pipeline: DiffusionPipeline,
    student: UNet2DConditionModel,
    drawn: torch.Generator,
    concepts: list[str],
    chosen: dict,
) -> Tensor:
    """One step's loss: a concept, how far a picture is drawn, noise; the picture; the formula."""
    c = concepts[int(torch.randint(len(concepts), (), generator=drawn))]
    done = int(torch.randint(chosen["sampling_steps"], (), generator=drawn))
    x = torch.randn(1, 4, 8, 8, generator=drawn)
    leaving = chosen["erase_from"] or c
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(chosen["sampling_steps"])
    drawing = student if chosen["form"] == "paper" else pipeline.unet
    with torch.no_grad():
        for time in scheduler.timesteps[:done]:
            of_empty, of_prompt = predictions(pipeline, drawing, x, int(time), ["", leaving]).split(1)
            x = scheduler.step(of_empty + chosen["start_guidance"] * (of_prompt - of_empty), time, x).prev_sample
        t = int(scheduler.timesteps[done])
        e_0, e_c, e_f = predictions(pipeline, pipeline.unet, x, t, ["", c, leaving]).double().split(1)
    target = (e_0 if chosen["form"] == "paper" else e_f) - chosen["negative_guidance"] * (e_c - e_0)
    return (predictions(pipeline, student, x, t, [leaving]).double() - target).square().mean()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (dict(form="paper", negative_guidance=1.0, start_guidance=3.0), ["ship"]),
        (dict(form=2025, negative_guidance=2.0, start_guidance=3.0), ["ship", "bird"]),
        (dict(form=2025, negative_guidance=1.5, start_guidance=2.0, erase_from="a picture"), ["ship"]),
    ],
)
def test_every_step_follows_the_gradient_of_the_formula(
    base_pipeline: DiffusionPipeline, changes: dict, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain descent in place of Adam, against a copy of the U-Net that is changed in place."""
    monkeypatch.setitem(training.OPTIMISERS, "adam", torch.optim.SGD)
    use_scheduler(base_pipeline, "ddim")
    chosen = DEFAULTS | BRIEF | changes | {"learning_rate": 0.05}
    found = erased(base_pipeline, [Concept(name, "object", "ground") for name in names], **chosen)
    student, drawn = copy.deepcopy(base_pipeline.unet).requires_grad_(True), torch.Generator().manual_seed(5)
    trained = {name: p for name, p in student.named_parameters() if ".attn2." in name}
    for _ in range(chosen["steps"]):
        loss = loss_by_hand(base_pipeline, student, drawn, names, chosen)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        with torch.no_grad():
            for parameter, gradient in zip(trained.values(), gradients, strict=True):
                parameter -= 0.05 * gradient
    assert found.keys() == trained.keys()
    for name, weight in found.items():
        before = base_pipeline.unet.get_parameter(name).detach()
        moved = trained[name].detach() - before
        assert torch.linalg.vector_norm(weight - before - moved) <= 2e-3 * torch.linalg.vector_norm(moved) + 1e-6, name
    assert any(not torch.equal(weight, base_pipeline.unet.get_parameter(name)) for name, weight in found.items())


def first_loss(monkeypatch: pytest.MonkeyPatch, pipeline: DiffusionPipeline, **changes: object) -> float:
    """The loss of the first step, and nothing trained."""
    losses = []

    def looked_at(values: dict, loss_of_step: Callable, *_: object, seed: int, **__: object) -> None:
        losses.append(loss_of_step(torch.Generator().manual_seed(seed)).item())

    monkeypatch.setattr(esd, "train", looked_at)
    erased(pipeline, **changes)
    return losses[0]


def test_the_first_loss_is_that_of_the_two_ways_to_count(
    pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(1 + h)^2 m under the paper's form is h^2 m under that of 2025, and so with a wider concept; m is one number."""
    paper = [first_loss(monkeypatch, pipeline, negative_guidance=h) for h in (0.0, 1.0, 3.0)]
    of_2025 = [first_loss(monkeypatch, pipeline, form=2025, negative_guidance=h) for h in (1.0, 2.0, 4.0)]
    assert paper == pytest.approx(of_2025, rel=1e-4)
    assert [loss / paper[0] for loss in paper] == pytest.approx([1, 4, 16], rel=1e-4)
    wider = [first_loss(monkeypatch, pipeline, form=2025, erase_from="a bird", negative_guidance=h) for h in (1.0, 2.0)]
    assert wider[1] / wider[0] == pytest.approx(4, rel=1e-4)


def test_nothing_moves_without_guidance(base_pipeline: DiffusionPipeline) -> None:
    before = dict(base_pipeline.unet.named_parameters())
    found = erased(base_pipeline, form=2025, negative_guidance=0.0)
    assert all(torch.equal(weight, before[name]) for name, weight in found.items())


# What trains


def expected(unet: UNet2DConditionModel, chosen: str, form: str | int) -> set[str]:
    """The parameters of every choice, module by module."""
    found = set()
    xl = unet.add_embedding is not None if hasattr(unet, "add_embedding") else False
    for path, module in unet.named_modules():
        top = path.split(".")[0]
        for key, _ in module.named_parameters(recurse=False):
            name = f"{path}.{key}"
            if form == 2025 and not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            cross = "attn2" in path.split(".")
            strict = cross and path.split(".")[-1] in ("to_k", "to_v")
            inside = top in ("down_blocks", "mid_block", "up_blocks")
            if form == 2025:
                rest = not cross and (not xl or (inside and "emb" not in name))
            else:
                rest = not cross and (inside or top == "conv_in")
            if {"x": cross, "x-strict": strict, "u": rest, "all": True}[chosen]:
                found.add(name)
    return found


@pytest.mark.parametrize("form", ["paper", 2025])
@pytest.mark.parametrize("chosen", ["x", "x-strict", "u", "all"])
def test_what_trains_is_what_was_chosen(base_pipeline: DiffusionPipeline, chosen: str, form: str | int) -> None:
    found = erased(base_pipeline, parameters=chosen, form=form, steps=1)
    assert set(found) == expected(base_pipeline.unet, chosen, form)


def test_the_sets_of_the_two_choices_are_all_of_it(base_unet: UNet2DConditionModel) -> None:
    x, u, every = (set(esd.parameter_names(base_unet, chosen, "paper")) for chosen in ("x", "u", "all"))
    assert not x & u
    assert {name.split(".")[0] for name in every - x - u} >= {"time_embedding", "conv_out"}


@pytest.mark.parametrize("chosen", ["x", "u"])
def test_nothing_else_changes_and_all_comes_back(
    base_folder: Path, base_pipeline: DiffusionPipeline, chosen: str, drawn: Callable[..., Tensor]
) -> None:
    parts = [base_pipeline.unet, base_pipeline.vae, base_pipeline.text_encoder]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    edit = lethe.erase(base_pipeline, SHIP, "esd", parameters=chosen, **BRIEF)
    after = [part.state_dict() for part in parts]
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    inputs = unet_inputs(base_pipeline.unet, drawn)
    plain = base_pipeline.unet(**inputs).sample
    edit.install(base_pipeline)
    changed = {
        name for name, value in base_pipeline.unet.state_dict().items() if not torch.equal(value, before[0][name])
    }
    assert changed
    assert changed <= set(edit.weights)
    assert not torch.equal(base_pipeline.unet(**inputs).sample, plain)  # for whatever prompt, the empty one too
    edit.remove(base_pipeline)
    assert torch.equal(base_pipeline.unet(**inputs).sample, plain)


# Repeats, and what is refused


def test_the_same_seed_gives_the_same_bytes(base_folder: Path) -> None:
    first, again, other = (
        erased(load_pipeline(str(base_folder), None, device=CPU, precision="float32"), seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(sd_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision=precision)
    found = erased(pipeline, steps=2)
    assert all(weight.dtype == pipeline.unet.dtype and weight.isfinite().all() for weight in found.values())


def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the API; of other settings the folder has another training."""
    options = BRIEF | dict(steps=6)
    whole = lethe.erase(pipeline, SHIP, "esd", **options)
    calls = cut_off(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, SHIP, "esd", workspace=tmp_path, **options)
    other = lethe.erase(pipeline, SHIP, "esd", workspace=tmp_path, **options, seed=9)
    before = len(calls)
    resumed = lethe.erase(pipeline, SHIP, "esd", workspace=tmp_path, **options)
    assert len(calls) - before == 2
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)
    assert not all(torch.equal(whole.weights[name], other.weights[name]) for name in whole.weights)
    assert {key: value for key, value in whole.record.items() if key != "edit"} == resumed.record


@pytest.mark.parametrize(
    ("concepts", "changes", "said"),
    [
        ([], {}, "esd: `concepts` must hold at least one concept; got none"),
        (SHIP, dict(erase_from="a picture"), "esd: erase_from belongs to form 2025"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        erased(pipeline, concepts, **changes)


@pytest.mark.parametrize(
    ("form", "parameters", "xl", "expected"),
    [
        ("paper", "x", False, (1000, 1e-5, 1.0, 3.0)),
        ("paper", "u", True, (1000, 1e-5, 1.0, 3.0)),
        (2025, "u", False, (200, 5e-5, 2.0, 3.0)),
        (2025, "x", True, (200, 2e-4, 1.0, 2.0)),
        (2025, "u", True, (200, 1e-5, 1.0, 2.0)),
    ],
)
def test_settings_left_out_are_the_published_ones(form: str | int, parameters: str, xl: bool, expected: tuple) -> None:
    assert tuple(esd.published_settings(form, parameters, xl).values()) == expected
