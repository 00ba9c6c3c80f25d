"""Hardened: its loss by hand, words that are trained away, what trains, what stays, and goings-on after a stop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

import lethe
from closed import planned
from conftest import CPU, IMAGE, unet_inputs
from guided import as_read
from lethe.bases.base import Base
from lethe.bases.embeddings import with_words
from lethe.bases.pipeline import load_pipeline, text_encoders, use_scheduler
from lethe.config.schema import defaults_of
from lethe.edits.weights import WeightEdit
from lethe.erasure.student import Student
from lethe.inputs.concepts import Concept
from lethe.methods import hardened
from lethe.plugins import manifest
from trained import WORLD, cut_off, ships

BRIEF = dict(
    retain=["bird"],
    captions=["a picture of a person"],
    retain_images=3,
    rounds=2,
    word={"steps": 2, "learning_rate": 0.1, "batch": 2},
    steps=3,
    batch=3,
    learning_rate=1e-3,
    sampling_steps=2,
    prompts=["{}", "a photo of {} here"],
)
DEFAULTS = defaults_of(manifest("methods", "hardened").settings) | {"seed": 5}
SHIP, BIRD = Concept("ship", "object", "ground"), Concept("bird", "object", "sky")
IMAGES = {"count": 2, "steps": 2, "guidance": 2.0}
FROM_BASE = {"closed_form": DEFAULTS["closed_form"] | {"use": False}}
NO_WORDS = {"word": BRIEF["word"] | {"steps": 0}}


def pictures(concepts: list[Concept]) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [list(rng.integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)) for _ in concepts]


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] | None = None, **changes: object) -> dict[str, Tensor]:
    chosen = [SHIP] if concepts is None else concepts
    reads = {"images": pictures(chosen), "prior": None}
    return hardened.erase(Base.of_pipeline(pipeline), chosen, DEFAULTS | BRIEF | changes, reads).weights


# The loss


def states(pipeline: DiffusionPipeline, prompt: str, word: Tensor | None, name: str) -> tuple[Tensor, dict]:
    """What the U-Net reads of a prompt, in which the name's embedding may be another in every encoder's table."""
    if word is None:
        return as_read(pipeline, prompt)
    (token,) = pipeline.tokenizer(name, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        tables = [encoder.get_input_embeddings().weight for encoder in text_encoders(pipeline).encoders]
        own = [table[token].clone() for table in tables]
        for table in tables:
            table[token] = word[: table.shape[1]]
        try:
            states, added = as_read(pipeline, prompt)
            return states.clone(), {key: value.clone() for key, value in added.items()}
        finally:
            for table, values in zip(tables, own, strict=True):
                table[token] = values


def latents_by_hand(pipeline: DiffusionPipeline, images: list[np.ndarray]) -> Tensor:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posteriors = [pipeline.vae.encode(one[None]).latent_dist for one in pixels]
    drawn = torch.randn(len(images), 4, 8, 8, generator=torch.Generator().manual_seed(5))
    means, deviations = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mean", "std"))
    return (means + deviations * drawn) * pipeline.vae.config.scaling_factor


@pytest.mark.parametrize("with_word", [False, True])
def test_the_loss_is_that_of_the_formula(base_pipeline: DiffusionPipeline, with_word: bool) -> None:
    """Row by row, in float64 behind the U-Net, with a student that differs from its teacher."""
    base, chosen = Base.of_pipeline(base_pipeline), DEFAULTS | BRIEF | {"batch": 5, "retain_weight": 3.0}
    images = pictures([SHIP, BIRD])
    kept = ["bird", "a picture of a person", "a photo of bird here"]
    one = hardened.erased_of(base, SHIP, images[0], chosen)
    stays = hardened.Pictures.of(base, images[1] + images[0][:1], seed=5)
    student = Student(base_pipeline.unet, hardened.parameter_names(base_pipeline.unet, "all"))
    other = copy.deepcopy(base_pipeline.unet)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
            student.values[name].copy_(parameter)
    word = torch.randn(64, generator=generator) if with_word else None
    tables = [encoder.get_input_embeddings().weight for encoder in base.text.encoders]
    values = word is not None and {str(n): word[None, : table.shape[1]] for n, table in enumerate(tables)}
    words = [[hardened.worded(base.text, one, values)] if with_word else []]
    prompts = hardened.conditions_of(base.text, kept, (IMAGE, IMAGE))
    found = hardened.loss(
        base_pipeline.unet,
        student,
        [one],
        words,
        hardened.Retained(stays, prompts),
        chosen,
        torch.Generator().manual_seed(9),
    )

    drawn = torch.Generator().manual_seed(9)
    a = torch.cumprod(1 - base_pipeline.scheduler.betas.double(), 0)

    def off(clean: Tensor, time: Tensor, noise: Tensor, asked: tuple, wanted: tuple) -> float:
        x = (a[time].sqrt() * clean + (1 - a[time]).sqrt() * noise).float()[None]
        with torch.no_grad():
            made, target = (
                unet(x, time, encoder_hidden_states=read[0], added_cond_kwargs=read[1]).sample.double()
                for unet, read in ((other, asked), (base_pipeline.unet, wanted))
            )
        return (made - target).square().mean().item()

    torch.randint(1, (), generator=drawn)
    which, times = torch.randint(2, (5,), generator=drawn), torch.randint(1000, (5,), generator=drawn)
    asked = []
    for row in range(5):
        if with_word and row in (2,):  # of rows 0, 2, 4 the ones not divisible by 4 draw which word
            torch.randint(1, (), generator=drawn)
        template = BRIEF["prompts"][int(torch.randint(2, (), generator=drawn))]
        by = word if with_word and row % 2 == 0 else None
        asked.append(
            (
                states(base_pipeline, template.format("ship"), by, "ship"),
                as_read(base_pipeline, template.format("ground")),
            )
        )
    noise = torch.randn(5, 4, 8, 8, generator=drawn)
    clean = latents_by_hand(base_pipeline, images[0])
    erasing = [off(clean[w], t, e, *read) for w, t, e, read in zip(which, times, noise, asked, strict=True)]
    which, times = torch.randint(3, (5,), generator=drawn), torch.randint(1000, (5,), generator=drawn)
    noise, clean = torch.randn(5, 4, 8, 8, generator=drawn), latents_by_hand(base_pipeline, images[1] + images[0][:1])
    holding = [
        off(clean[w], t, e, *[as_read(base_pipeline, kept[w])] * 2) for w, t, e in zip(which, times, noise, strict=True)
    ]
    assert found.item() == pytest.approx(np.mean(erasing) + 3 * np.mean(holding), rel=1e-4)


def test_nothing_moves_where_the_anchor_is_the_name_itself(base_pipeline: DiffusionPipeline) -> None:
    before = dict(base_pipeline.unet.named_parameters())
    found = erased(base_pipeline, [Concept("ship", "object", "ship")], **NO_WORDS)
    assert found.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in found.items())


def test_training_goes_against_the_words_that_were_learned(pipeline: DiffusionPipeline) -> None:
    """With the word the U-Net comes nearer to the anchor, over the same draws; by the name alone it does not."""
    base, chosen = Base.of_pipeline(pipeline), DEFAULTS | BRIEF | FROM_BASE
    chosen |= {"rounds": 1, "steps": 50, "batch": 4, "learning_rate": 1e-4}
    one = hardened.erased_of(base, SHIP, pictures([SHIP])[0], chosen)
    untrained = Student(pipeline.unet, hardened.parameter_names(pipeline.unet, "all"))
    learned = hardened.learned_word(base, untrained, one, chosen, 0, None)
    asked = hardened.worded(base.text, one, learned).row(0)

    @torch.no_grad()
    def off(weights: dict[str, Tensor]) -> float:
        student = Student(pipeline.unet, weights)
        student.load(weights)
        generator, total = torch.Generator().manual_seed(3), 0.0
        for _ in range(16):
            noisy, _ = one.pictures.noisy(*(drawn := one.pictures.drawn(1, generator)), generator)
            made, target = (
                hardened.predicted(unet, noisy, drawn[1], read)
                for unet, read in ((student, asked), (pipeline.unet, one.anchored.row(0)))
            )
            total += (made - target).square().mean().item()
        return total

    before = off(untrained.values)
    assert off(erased(pipeline, **chosen | NO_WORDS)) > 0.8 * before
    assert off(erased(pipeline, **chosen)) < 0.6 * before


def test_a_word_is_learned_against_the_u_net_as_far_as_it_is_trained(pipeline: DiffusionPipeline) -> None:
    """It denoises the concept's images better than what it begins as, and no gradient stays in the U-Net."""
    base = Base.of_pipeline(pipeline)
    chosen = DEFAULTS | BRIEF | {"word": {"steps": 40, "learning_rate": 0.1, "batch": 2}}
    one = hardened.erased_of(base, SHIP, pictures([SHIP])[0], chosen)
    student = Student(pipeline.unet, hardened.parameter_names(pipeline.unet, "all"))
    with torch.no_grad():
        for value in student.values.values():
            value.mul_(1.1)
    begun = hardened.learned_word(base, student, one, chosen | {"word": chosen["word"] | {"steps": 0}}, 0, None)
    learned = hardened.learned_word(base, student, one, chosen, 0, None)

    @torch.no_grad()
    def loss(word: dict[str, Tensor], unet: Student | UNet2DConditionModel) -> float:
        condition = with_words(base.text, one.places[0], word, {})
        generator = torch.Generator().manual_seed(2)
        return sum(one.pictures.mean_loss(unet, condition, 4, generator).item() for _ in range(8))

    assert loss(learned, student) < 0.99 * loss(begun, student)
    assert all(value.grad is None and value.requires_grad for value in student.values.values())


def test_what_stays_takes_turns_and_names_no_concept(pipeline: DiffusionPipeline) -> None:
    told = []
    texts = dict(retain=["bird", "ship", "a ship here"], captions=["a person on the ground", "the ship"])
    encode = hardened.conditions_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hardened, "conditions_of", lambda text, prompts, size: told.append(prompts) or encode(text, prompts, size)
        )
        hardened.retained(Base.of_pipeline(pipeline), [SHIP], DEFAULTS | BRIEF | texts, None, size=(IMAGE, IMAGE))
    (prompts,) = told
    assert prompts[1] == "a person on the ground"
    assert {prompts[0], prompts[2]} <= {"bird", "a photo of bird here"}


def test_training_begins_with_the_closed_form_of_lethe(base_pipeline: DiffusionPipeline) -> None:
    """At a learning rate that moves nothing; without it, with the base."""
    still = dict(learning_rate=1e-12, rounds=1, steps=1, retain=["bird"], retain_images=1, sampling_steps=1)
    shared = dict(retain=["bird"], prompts=BRIEF["prompts"])
    told = lethe.erase(base_pipeline, [SHIP], "lethe", **shared).weights
    before = dict(base_pipeline.unet.named_parameters())
    found = erased(base_pipeline, **still)
    assert all(torch.allclose(weight, told.get(name, before[name]), atol=1e-6) for name, weight in found.items())
    assert not all(torch.allclose(weight, before[name], atol=1e-4) for name, weight in found.items())
    found = erased(base_pipeline, **still, **FROM_BASE)
    assert all(torch.allclose(weight, before[name], atol=1e-6) for name, weight in found.items())


# What trains, repeats


@pytest.mark.parametrize("chosen", ["all", "x"])
def test_nothing_else_changes_and_all_comes_back(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], chosen: str
) -> None:
    parts = [base_pipeline.unet, base_pipeline.vae, *text_encoders(base_pipeline).encoders]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    scheduler = base_pipeline.scheduler
    edit = lethe.erase(base_pipeline, [SHIP], "hardened", images=IMAGES, **BRIEF, parameters=chosen)
    after = [part.state_dict() for part in parts]
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    assert base_pipeline.scheduler is scheduler
    inputs = unet_inputs(base_pipeline.unet, drawn)
    plain = base_pipeline.unet(**inputs).sample
    edit.install(base_pipeline)
    now = base_pipeline.unet.state_dict()
    changed = {name for name, value in now.items() if not torch.equal(value, before[0][name])}
    assert changed
    assert changed <= {name for name in now if chosen == "all" or ".attn2." in name}
    edit.remove(base_pipeline)
    assert torch.equal(base_pipeline.unet(**inputs).sample, plain)


def test_the_same_seed_gives_the_same_bytes(sd_folder: Path) -> None:
    first, again, other = (
        erased(load_pipeline(str(sd_folder), None, device=CPU, precision="float32"), seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(sd_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision=precision)
    found = erased(pipeline, rounds=1, steps=2)
    assert all(weight.dtype == pipeline.unet.dtype and weight.isfinite().all() for weight in found.values())


@pytest.mark.parametrize(("stopped_at", "left"), [(5, 1 + 2 + 3), (8, 3), (10, 1)])
def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int, left: int
) -> None:
    """Two words of two steps and three steps of the U-Net, twice; steps are kept every two, words when learned."""
    options = BRIEF | {"images": IMAGES}
    whole = lethe.erase(pipeline, [SHIP], "hardened", **options)
    calls = cut_off(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, [SHIP], "hardened", workspace=tmp_path, **options)
    before = len(calls)
    drawn = []
    monkeypatch.setattr(hardened, "sample_rows", lambda *_, **__: drawn.append(1))
    resumed = lethe.erase(pipeline, [SHIP], "hardened", workspace=tmp_path, **options)
    assert not drawn  # what stays is not drawn again
    assert len(calls) - before == left
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


@pytest.mark.parametrize(
    ("concepts", "changes", "said"),
    [
        ([], {}, "hardened: `concepts` must hold at least one concept; got none"),
        ([SHIP], dict(retain=["a ship"], captions=[]), "nothing would hold what should stay; name it in retain or"),
        ([SHIP], dict(prompts=["a photo"]), r"\{\}"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        erased(pipeline, concepts, **changes)


# In the workflow, and whether it erases


def test_a_planned_job_trains_on_images_of_the_concept(
    tmp_path: Path, sd_folder: Path, pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    edit = planned(tmp_path, sd_folder, "hardened", BRIEF, images=IMAGES)
    assert isinstance(edit, WeightEdit)
    by_hand = lethe.erase(pipeline, {"ship": "sky"}, "hardened", images=IMAGES, **BRIEF)
    assert edit.weights.keys() == by_hand.weights.keys()
    assert all(torch.equal(edit.weights[name], weight) for name, weight in by_hand.weights.items())


def test_it_erases_from_the_emoji_model() -> None:
    """Four pictures of a ship, all of which the judge takes for one before, and a bird beside, which stays."""
    pipeline = lethe.load(WORLD / "pipeline", device="cpu")
    use_scheduler(pipeline, "dpm-solver++")
    options = dict(retain=["bird", "cat", "truck", "frog"], retain_images=16, sampling_steps=8, guidance=4.0)
    options |= dict(rounds=1, word={"steps": 10}, steps=40, learning_rate=2e-4, images={"count": 4, "steps": 8})
    assert ships(pipeline) == 4
    edit = lethe.erase(pipeline, {"ship": "ground"}, "hardened", **options)
    edit.install(pipeline)
    assert ships(pipeline) <= 1
