"""SLD: the pipeline draws what the published formula says, written here as a loop; its identities; its settings."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from jsonschema import Draft202012Validator
from torch import Tensor

from conftest import CPU
from guided import PROMPT, away, by_hand, drawn_by, steps_of
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline
from lethe.bases.sampling import sample_rows
from lethe.config.schema import frame
from lethe.inputs.concepts import Concept
from lethe.methods.sld import INAPPROPRIATE, PRESETS, Rule, erase, guide
from lethe.plugins import kinds, manifest

SAFETY = "a bird in the sky"
NUMBERS = {  # methods.md, section 7: delta, s_S, lambda, s_m, beta
    "weak": (15, 200, 0, 0, 0),
    "medium": (10, 1000, 0.01, 0.3, 0.4),
    "strong": (7, 2000, 0.025, 0.5, 0.7),
    "max": (0, 5000, 1.0, 0.5, 0.7),
}
BRIEF = Rule(warmup_steps=1, safety_scale=2.0, threshold=0.05, momentum_scale=0.5, momentum_beta=0.7)
ALL = Rule(warmup_steps=0, safety_scale=1e9, threshold=1e9, momentum_scale=0.0, momentum_beta=0.0)


def stored(rule: Rule, text: str = SAFETY) -> dict:
    return {"text": text, **asdict(rule)}


def formula(rule: Rule, scale: float, *, near: list[float] | None = None) -> Callable[..., Tensor]:
    """The published rule as a step of `by_hand`; `near` notes how near any element comes to lambda."""
    nu = torch.zeros(())

    def step(i: int, e0: Tensor, ec: Tensor, es: Tensor) -> Tensor:
        nonlocal nu
        d = ec - es
        phi = torch.minimum(torch.ones_like(d), rule.safety_scale * d.abs())
        mu = torch.where(d < rule.threshold, phi, torch.zeros_like(d))
        gamma = mu * (es - e0) + rule.momentum_scale * nu
        nu = rule.momentum_beta * nu + (1 - rule.momentum_beta) * gamma
        if near is not None:
            near.append((d - rule.threshold).abs().min().item())
        return e0 + scale * (ec - e0 - (gamma if i >= rule.warmup_steps else 0))

    return step


@pytest.fixture
def exact(base_pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """A tiny pipeline of each family in float64, where rows computed together and apart differ by 1e-15."""
    return base_pipeline.to(torch.float64)


# The formula


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
@pytest.mark.parametrize("strength", PRESETS)
def test_the_pipeline_draws_what_the_formula_says(base_folder: Path, scheduler: str, strength: str) -> None:
    pipeline = load_pipeline(str(base_folder), None, device=CPU, precision="float32", scheduler=scheduler)
    pipeline.to(torch.float64)
    rule = Rule(*NUMBERS[strength])
    steps = rule.warmup_steps + 3
    want = by_hand(pipeline, SAFETY, formula(rule, 4.0), steps=steps)
    plain = drawn_by(pipeline, steps=steps)
    guide(pipeline, stored(rule))
    assert away(drawn_by(pipeline, steps=steps), want) < 1e-9
    assert away(plain, want) > 1e-3


def test_in_float32_it_is_the_formula_to_rounding(base_pipeline: DiffusionPipeline) -> None:
    near: list[float] = []
    want = by_hand(base_pipeline, SAFETY, formula(BRIEF, 4.0, near=near), steps=4)
    assert min(near) > 1e-5  # no element is so near to lambda that rounding decides
    plain = drawn_by(base_pipeline, steps=4)
    guide(base_pipeline, stored(BRIEF))
    # Rounding (6e-8) of predictions, times guidance, times the 15 of SDXL's largest sigma, over the steps
    assert away(drawn_by(base_pipeline, steps=4), want) < 1e-4
    assert away(plain, want) > 1e-2


def test_a_negative_prompt_of_the_call_is_where_guidance_starts(exact: DiffusionPipeline) -> None:
    """e_0 is of the call's negative prompt; the scheduler is the base's own."""
    want = by_hand(exact, SAFETY, formula(BRIEF, 4.0), steps=4, negative="the ground")
    guide(exact, stored(BRIEF))
    assert away(drawn_by(exact, steps=4, negative_prompt="the ground"), want) < 1e-9
    assert away(drawn_by(exact, steps=4), want) > 1e-3


@torch.no_grad()
def test_images_of_another_size_keep_it_in_the_safety_branch(sdxl_folder: Path) -> None:
    """SDXL reads the image's size beside the text; that of the safety text is the image's too."""
    pipeline = load_pipeline(str(sdxl_folder), None, device=CPU, precision="float32").to(torch.float64)
    read: list[Tensor] = []
    pipeline.unet.register_forward_hook(
        lambda module, args, given, made: read.append(given["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    guide(pipeline, stored(BRIEF))
    drawn_by(
        pipeline,
        steps=1,
        height=40,
        width=32,
        crops_coords_top_left=(1, 2),
        negative_original_size=(9, 9),
        negative_target_size=(8, 8),
    )
    sizes = [[9.0, 9, 0, 0, 8, 8], [40.0, 32, 1, 2, 40, 32], [40.0, 32, 1, 2, 40, 32]]
    assert read[-1].tolist() == sizes


def test_two_steps_by_hand() -> None:
    """s_S 2, lambda 1/4, s_m 1/2, beta 1/2. Elements: d = 1/4, not below lambda; d = -1/4, phi 1/2; d = -1, phi 1."""
    guided = Rule(1, 2.0, 0.25, 0.5, 0.5).begin()
    made = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.25, 0.25, 2.0]])
    assert guided(made).tolist() == [[0.0, 0.0, 1.0], [0.5, 0.0, 1.0]]  # warm-up; gamma is 0, 1/8, 1 and nu half of it
    # gamma again and a half of nu: 0, 1/8 + 1/32, 1 + 1/4
    assert guided(made).tolist() == [[0.0, 0.0, 1.0], [0.5, -0.15625, -0.25]]


# Identities


@pytest.mark.parametrize(
    ("rule", "text", "more"),
    [
        (replace(BRIEF, warmup_steps=4), SAFETY, {}),
        (BRIEF, PROMPT, {}),
        (BRIEF, "", {"negative_prompt": ""}),  # without one SDXL reads zeros
        (replace(BRIEF, safety_scale=0.0), SAFETY, {}),
    ],
    ids=["no steps after the warm-up", "safety text is the prompt", "safety text is empty", "no scale"],
)
def test_what_is_plain_guidance(exact: DiffusionPipeline, rule: Rule, text: str, more: dict) -> None:
    plain = drawn_by(exact, steps=4, **more)
    guide(exact, stored(rule, text))
    assert away(drawn_by(exact, steps=4, **more), plain) < 1e-9


def test_without_limits_it_is_the_negative_prompt_and_a_shift(exact: DiffusionPipeline) -> None:
    """s_S and lambda without bounds, s_m = 0: e_S + s (e_c - e_S) + (e_0 - e_S), in the one step from pure noise."""
    negative = steps_of(exact)
    drawn_by(exact, steps=1, negative_prompt=SAFETY)
    undo = guide(exact, stored(ALL))
    drawn_by(exact, steps=1)
    undo()
    made: list[Tensor] = []
    exact.unet.register_forward_hook(lambda module, args, given, out: made.append(out[0]), with_kwargs=True)
    drawn_by(exact, steps=1)
    drawn_by(exact, steps=1, negative_prompt=SAFETY)
    shift = made[0].chunk(2)[0] - made[1].chunk(2)[0]
    assert away(negative[1], negative[0] + shift) < 1e-9
    assert away(negative[1], negative[0]) > 1e-3


def test_momentum_gathers_before_the_first_guided_step(exact: DiffusionPipeline) -> None:
    """Until step delta the trajectory is plain guidance; what acts in it remembers the steps before."""
    plain = steps_of(exact)
    drawn_by(exact, steps=4)
    rule = replace(BRIEF, warmup_steps=2, safety_scale=1e9, threshold=1e9)
    undo = guide(exact, stored(rule))
    drawn_by(exact, steps=4)
    undo()
    forgetful = guide(exact, stored(replace(rule, momentum_scale=0.0)))
    drawn_by(exact, steps=4)
    forgetful()
    first, guided, forgetting = plain[:4], plain[4:8], plain[8:12]
    assert [away(a, b) < 1e-9 for a, b in zip(guided, first, strict=True)] == [True, True, False, False]
    assert away(forgetting[1], first[1]) < 1e-9
    assert away(guided[2], forgetting[2]) > 1e-3  # the same latents, and nu is not 0


# Drawing


def test_each_drawing_begins_anew_for_every_row(base_pipeline: DiffusionPipeline, some_rows: pd.DataFrame) -> None:
    """Twice the same bytes, in batches of any size the same images to rounding, after a drawing that failed too."""
    options = dict(steps=4, guidance=4.0)
    plain = sample_rows(base_pipeline, some_rows, batch=1, **options)
    guide(base_pipeline, stored(replace(BRIEF, safety_scale=20.0, threshold=1e9), "a person on the ground"))
    alone = sample_rows(base_pipeline, some_rows, batch=1, **options)

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn_by(base_pipeline, steps=3, callback_on_step_end=fail)
    for batch in (1, 2, 3, 4):
        together = sample_rows(base_pipeline, some_rows, batch=batch, **options)
        off = [abs(a.astype(int) - b.astype(int)).max() for a, b in zip(together, alone, strict=True)]
        assert max(off) <= (0 if batch == 1 else 1)
    assert min(abs(a.astype(int) - b.astype(int)).max() for a, b in zip(plain, alone, strict=True)) > 5


def test_several_images_of_a_prompt_are_those_of_single_calls(exact: DiffusionPipeline) -> None:
    guide(exact, stored(BRIEF))
    alone = [drawn_by(exact, steps=3, seed=seed) for seed in (3, 4)]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = exact(
        PROMPT,
        num_images_per_prompt=2,
        generator=generators,
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    assert away(both, torch.cat(alone)) < 1e-9


def test_half_precision_is_guided_in_single(pipeline: DiffusionPipeline) -> None:
    """Of bfloat16 predictions gamma is computed in float32 and rounded once."""
    made = torch.linspace(-1, 1, 3 * 4 * 16).reshape(3, 4, 4, 4).flip(1).sin().to(torch.bfloat16)
    free, asked, unsafe = made.double().chunk(3)
    rule, guided = replace(BRIEF, warmup_steps=0), replace(BRIEF, warmup_steps=0).begin()
    step = formula(rule, 1.0)
    for number in range(3):
        want = step(number, free, asked, unsafe)
        got = guided(made)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got[:1], made[:1])
        assert torch.equal(got[1:], want.float().to(torch.bfloat16))


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_drawing_without_guidance_is_refused(base_pipeline: DiffusionPipeline, scale: float) -> None:
    guide(base_pipeline, stored(BRIEF))
    with pytest.raises(ValueError, match=rf"sld: the edit acts through guidance, .*\(its scale is {scale:g}\); sample"):
        drawn_by(base_pipeline, steps=2, scale=scale)
    drawn_by(base_pipeline, steps=2, scale=1.1)


# Settings


def test_the_presets_are_the_published_ones() -> None:
    assert {name: tuple(asdict(rule).values()) for name, rule in PRESETS.items()} == NUMBERS
    assert len(INAPPROPRIATE.split(", ")) == 20


def defaults() -> dict:
    """The manifest's own settings."""
    return {name: rule["default"] for name, rule in manifest("methods", "sld").settings["properties"].items()}


def made(sd_folder: Path, names: list[str], **settings: object) -> dict:
    base = Base.in_folder(sd_folder, {"variant": None}, device=CPU, precision="float32")
    concepts = [Concept(name, "object", "ground") for name in names]
    edit = erase(base, concepts, defaults() | settings, {})
    assert (edit.kind, edit.record) == ("sld", {})
    return edit.settings


def test_an_edit_holds_all_that_inference_needs(sd_folder: Path) -> None:
    got = made(sd_folder, ["ship", "bird"])
    assert got == {"text": "ship, bird", "phrases_cut": 0, **asdict(Rule(*NUMBERS["medium"]))}
    assert made(sd_folder, ["ship"], strength="weak")["safety_scale"] == 200
    assert made(sd_folder, ["ship"], strength="weak", weak_scale=20)["safety_scale"] == 20
    assert made(sd_folder, ["ship"], strength="max", weak_scale=20)["safety_scale"] == 5000
    assert made(sd_folder, ["ship"], phrases="ship on the ground")["text"] == "ship on the ground"
    assert made(sd_folder, ["ship"], phrases="inappropriate")["text"] == INAPPROPRIATE


@pytest.mark.parametrize("name", Rule.__dataclass_fields__)
def test_a_setting_of_ones_own_replaces_the_presets(sd_folder: Path, name: str) -> None:
    usual = made(sd_folder, ["ship"], strength="strong")
    assert made(sd_folder, ["ship"], strength="strong", **{name: 0}) == usual | {name: 0}


def test_what_the_window_cuts_is_said(sd_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each "photo" is a token and so is its comma: with the two ends 75 tokens hold 38 phrases."""
    with caplog.at_level(logging.WARNING):
        got = made(sd_folder, ["photo"] * 38)
        assert (got["phrases_cut"], caplog.text) == (0, "")
        got = made(sd_folder, ["photo"] * 100)
    assert (got["phrases_cut"], got["text"].count("photo")) == (62, 100)
    assert "sld: 62 of 100 phrases lie beyond the window of 77 tokens" in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"momentum_beta": 1.5}, "sld: `momentum_beta` must be a number, from 0 to 1; got 1.5"),
        ({"threshold": -1}, "sld: `threshold` must be a number, 0 or more; got -1"),
        ({"threshold": float("nan")}, "sld: `threshold` must be a number, 0 or more; got nan"),
        ({"safety_scale": "big"}, "sld: `safety_scale` must be a number, 0 or more; got 'big'"),
        ({"momentum_scale": True}, "sld: `momentum_scale` must be a number, 0 or more; got True"),
        ({"warmup_steps": 1.5}, "sld: `warmup_steps` must be a whole number, 0 or more; got 1.5"),
        ({"warmup_steps": None}, "sld: `warmup_steps` must be a whole number, 0 or more; got None"),
        ({"text": None}, "sld: `text` in the edit must be text; got None"),
    ],
)
def test_settings_that_no_edit_has_are_refused(pipeline: DiffusionPipeline, change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        guide(pipeline, stored(BRIEF) | change)
    assert "progress_bar" not in vars(pipeline)


def test_a_setting_out_of_its_range_is_refused_when_the_edit_is_made(sd_folder: Path) -> None:
    with pytest.raises(ValueError, match="`momentum_beta` must be a number, from 0 to 1; got 2"):
        made(sd_folder, ["ship"], momentum_beta=2)


@pytest.mark.parametrize("kind", ["sld", "negative-prompt"])
def test_the_manifest_is_whole_and_its_defaults_are_valid(kind: str) -> None:
    assert kind in kinds("methods")
    about = manifest("methods", kind)
    method = importlib.import_module(about.module)
    assert callable(method.erase)
    assert callable(method.guide)
    assert (tuple(about.reads), set(about.more), about.settings["required"]) == ((), {"remedy"}, [])
    schema = about.settings | {"$defs": frame()["$defs"]}
    Draft202012Validator.check_schema(schema)
    usual = {name: rule["default"] for name, rule in about.settings["properties"].items()}
    assert list(Draft202012Validator(schema).iter_errors(usual)) == []
    assert all(rule["description"].endswith(".") for rule in about.settings["properties"].values())
