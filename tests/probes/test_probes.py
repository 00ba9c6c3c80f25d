"""Every probe on every family and form of an edit: what holds for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline

from attacked import SHIP, SMALL, base_of, edits_for, probed, settings_for, workspace_for
from lethe.attacks.controls import random_weights
from lethe.attacks.trials import ATTACK, COLUMNS, REPORT, SEARCH, SPENT, VERDICTS
from lethe.attacks.workspace import Drawing
from lethe.bases.pipeline import text_encoders
from lethe.inputs.concepts import Concept
from lethe.plugins import kinds, manifest
from lethe.probes import vocabulary_sweep
from lethe.steps.probe import read_words
from lethe.steps.words import write_words

FORMS = ["none", "guidance", "adapters"]  # new weights are on the other families


def state(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    """Every weight of a pipeline, copied."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in pipeline.components.items()
        if isinstance(module, torch.nn.Module)
        for name, tensor in module.state_dict().items()
    }


def test_every_probe_is_tested_here() -> None:
    assert set(SMALL) == set(kinds("probes"))
    for kind in SMALL:
        assert set(manifest("probes", kind).more) <= {"controls", "pictures", "attack"}
        assert set(manifest("probes", kind).reads) <= {"words"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SMALL)
def test_a_probe_gives_trials_and_leaves_the_pipeline_as_it_was(
    pipeline: DiffusionPipeline, kind: str, form: str
) -> None:
    check(pipeline, kind, form)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("folder", ["sd2_folder", "sdxl_folder"])
def test_probes_work_on_the_other_families(
    request: pytest.FixtureRequest, folder: str, kind: str, loaded: Callable[..., DiffusionPipeline]
) -> None:
    check(loaded(request.getfixturevalue(folder)), kind, "weights")


@pytest.fixture
def loaded() -> Callable[..., DiffusionPipeline]:
    from conftest import CPU
    from lethe.bases.pipeline import load_pipeline

    return lambda folder: load_pipeline(str(folder), None, device=CPU, precision="float32")


def check(pipeline: DiffusionPipeline, kind: str, form: str) -> None:
    before, scheduler = state(pipeline), pipeline.scheduler
    hooks = {part: len(getattr(pipeline, part)._forward_hooks) for part in ("unet", "text_encoder")}
    trials = probed(base_of(pipeline), kind, edits_for(pipeline)[form], workspace_for())
    rows = trials.frame()
    assert list(rows) == [*COLUMNS, *VERDICTS, *SPENT]
    assert len(rows) == len(trials.images)
    assert len({image.shape for image in trials.images}) == 1
    chosen = rows["best"] == manifest("probes", kind).more.get("attack", True)  # of what is no attack none is the best
    reports = rows[(rows["arm"] == ATTACK) & (rows["phase"] == REPORT) & chosen]
    assert set(reports["seed"]) == {11, 12}  # fresh ones
    assert not set(rows.loc[rows["phase"] == SEARCH, "seed"]) & {11, 12}
    assert rows["worth"].is_monotonic_increasing
    assert rows["worth"].iloc[-1] > 0
    tokenizers = text_encoders(pipeline).tokenizers
    for prompt, ids in zip(rows["prompt"], rows["ids"], strict=True):
        for tokenizer in tokenizers:  # what is reported can be typed
            read = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert set(json.loads(ids)) <= set(read)
            assert tokenizer(tokenizer.decode(read).strip(), add_special_tokens=False)["input_ids"] == read
    after = state(pipeline)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert pipeline.scheduler is scheduler
    assert hooks == {part: len(getattr(pipeline, part)._forward_hooks) for part in hooks}
    assert all(parameter.requires_grad for parameter in pipeline.unet.parameters())


def test_a_probe_repeats_itself_to_the_byte(pipeline: DiffusionPipeline) -> None:
    """One that draws tokens, noise and images."""
    one, other = (probed(base_of(pipeline), "unlearndiffatk", None, workspace_for()) for _ in range(2))
    pd.testing.assert_frame_equal(one.frame(), other.frame())
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


@pytest.mark.parametrize("name", ["ship", "bird"])
def test_words_drawn_once_for_all_concepts_are_those_that_each_would_draw(
    pipeline: DiffusionPipeline, tmp_path: Path, name: str
) -> None:
    """To the trial, the image and what was spent; words of the concept's own name are left out either way."""
    base, edit, space = base_of(pipeline), edits_for(pipeline)["weights"], workspace_for(name)
    settings = settings_for("vocabulary-sweep", tokens=1000)
    drawing, concept = Drawing(space.sampling), Concept(name, "object", "ground")
    drawn = vocabulary_sweep.words(base, edit, settings, drawing, seed=space.seed, image_seed=space.search[0])
    write_words(tmp_path / "words.zip", drawn, drawing, 1, {})
    shared = replace(space, **read_words(tmp_path / "words.zip"))
    one, other = (vocabulary_sweep.probe(base, edit, concept, settings, where) for where in (space, shared))
    pd.testing.assert_frame_equal(one.frame(), other.frame())
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))
    searched = one.frame().query("part == 'word'")
    assert len(searched) == len(drawn[0]) - 1
    assert name not in set(searched["prompt"])
    assert name in {word.prompt for word in drawn[0]}


def test_random_weights_are_others_and_go_again(pipeline: DiffusionPipeline) -> None:
    before = state(pipeline)
    with random_weights(pipeline.unet, 3):
        inside = state(pipeline)
    with random_weights(pipeline.unet, 3):
        again = state(pipeline)
    weight = "unet.conv_in.weight"
    assert not torch.equal(inside[weight], before[weight])
    assert all(torch.equal(inside[name], again[name]) for name in inside)
    after = state(pipeline)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_names_the_concept_is_told(pipeline: DiffusionPipeline) -> None:
    rows = probed(base_of(pipeline), "name-ladder", None, workspace_for()).frame()
    assert rows["named"].all()
    trials = workspace_for().trials(SHIP)
    assert trials.banned == ["ship", "vessel", "boat"]
