"""OCE: its formula as the paper writes it, layer by layer; that it is a turn, the best one, and of what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import lethe
from closed import (
    CONCEPTS,
    KEPT,
    changed_by,
    exact,
    last_state,
    planned,
    prior_of,
    settings_of,
    state,
    weights_of,
)
from lethe.bases.base import Base
from lethe.erasure.layers import basis
from lethe.erasure.moments import Moment
from lethe.inputs.concepts import Concept
from lethe.methods.oce import erase, turn
from lethe.plugins import manifest
from loops import apart

SOME = dict(guides=["person", "a bird"], preserve=KEPT, erase_scale=800.0, preserve_scale=2.0, prior_scale=70.0)
TEXTS = ["the sky here", "a photo"]


def erased(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept] = CONCEPTS, prior: Moment | None = None, **changes: object
) -> dict[str, Tensor]:
    """The new projections by module name."""
    edit = erase(Base.of_pipeline(pipeline), concepts, settings_of("oce", **changes), {"prior": prior})
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


def values_of(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights_of(pipeline).items() if name.endswith("to_v")}


# The formula, in numpy, with bases of independent columns by QR


def objective(
    weight: np.ndarray,
    away: np.ndarray,
    to: np.ndarray,
    kept: list[np.ndarray],
    mean: np.ndarray,
    chosen: dict[str, Any],
) -> np.ndarray:
    """M of a layer; `away`, `to` `[d, n]`, columns that are independent after W."""
    e, g = np.linalg.qr(weight @ away)[0], np.linalg.qr(weight @ to)[0]
    m = -chosen["erase_scale"] * e @ e.T @ (np.eye(len(e)) - g @ g.T)
    for p in kept:
        m = m + chosen["preserve_scale"] * np.outer(weight @ p, weight @ p)
    return m + chosen["prior_scale"] * weight @ mean @ weight.T + chosen["ridge"] * weight @ weight.T


def by_formula(pipeline: DiffusionPipeline, chosen: dict[str, Any], of_prior: Sequence[str]) -> dict[str, np.ndarray]:
    def columns(words: Sequence[str]) -> np.ndarray:
        filled = [template.replace("{}", word) for word in words for template in chosen["prompts"]]
        return np.stack([last_state(pipeline, prompt).numpy() for prompt in filled], axis=1)

    away = columns([concept.name for concept in CONCEPTS])
    to = columns(chosen["guides"] or [concept.anchor for concept in CONCEPTS])
    kept = [last_state(pipeline, text).numpy() for text in chosen["preserve"]]
    tokens = [token for text in of_prior for token in state(pipeline, text).numpy()]
    mean = sum(np.outer(h, h) for h in tokens) / len(tokens) if tokens else np.zeros((len(away), len(away)))
    found = {}
    for name, tensor in weights_of(pipeline).items():
        if chosen["projections"] == "both" or name.endswith("to_v"):
            left, _, right = np.linalg.svd(objective(tensor.numpy(), away, to, kept, mean, chosen))
            found[name] = left @ right @ tensor.numpy()
    return found


@pytest.mark.parametrize(
    ("changes", "of_prior"),
    [
        (dict(), []),
        (dict(preserve=KEPT), TEXTS),
        (SOME, TEXTS),
        (dict(guides=["person"], projections="both", ridge=0.3), TEXTS),
        (dict(prompts=["{}", "a photo of {}"], preserve=KEPT[:1], erase_scale=30.0), TEXTS[:1]),
    ],
    ids=str,
)
def test_an_edit_is_the_formula_on_every_family(
    base_pipeline: DiffusionPipeline, changes: dict[str, Any], of_prior: list[str]
) -> None:
    pipeline, chosen = exact(base_pipeline), settings_of("oce", **changes)
    before = weights_of(pipeline)
    got = erased(pipeline, prior=prior_of(pipeline, of_prior) if of_prior else None, **changes)
    want = by_formula(pipeline, chosen, of_prior)
    assert got.keys() == want.keys() == (before if chosen["projections"] == "both" else values_of(pipeline)).keys()
    for name, weight in want.items():
        assert apart(got[name], torch.from_numpy(weight)) < 1e-7
        assert apart(got[name], before[name]) > 1e-3


@pytest.mark.parametrize("outputs", [40, 12, 7])
def test_a_layer_of_any_shape_is_turned_by_the_formula(drawn: Callable[..., Tensor], outputs: int) -> None:
    """Also one with more outputs than inputs, where Q is free outside the span of W and does nothing to it."""
    weight, away, to, kept = drawn(outputs, 12), drawn(12, 3, seed=1), drawn(12, 2, seed=2), drawn(4, 12, seed=3)
    chosen = dict(erase_scale=300.0, preserve_scale=5.0, prior_scale=0.0, ridge=2.0)
    arrays = (weight.numpy(), away.numpy(), to.numpy(), list(kept.numpy()), np.zeros((12, 12)), chosen)
    left, _, right = np.linalg.svd(objective(*arrays))
    moment = 5.0 * kept.T @ kept + 2.0 * torch.eye(12)
    assert apart(turn(weight, away.mT, to.mT, moment, 300.0), torch.from_numpy(left @ right) @ weight) < 1e-9


# What must hold whatever the numbers


def test_lengths_and_angles_within_a_layer_stay(base_pipeline: DiffusionPipeline) -> None:
    pipeline = exact(base_pipeline)
    for name, weight in erased(pipeline, prior=prior_of(pipeline, TEXTS), preserve=KEPT, projections="both").items():
        old = weights_of(pipeline)[name]
        assert apart(weight.mT @ weight, old.mT @ old) < 1e-9
        assert apart(weight, old) > 1e-2


def test_without_weight_nothing_turns(base_pipeline: DiffusionPipeline) -> None:
    pipeline = exact(base_pipeline)
    for name, weight in erased(pipeline, prior=prior_of(pipeline, TEXTS), preserve=KEPT, erase_scale=0.0).items():
        assert apart(weight, weights_of(pipeline)[name]) < 1e-9


def test_no_other_orthogonal_matrix_does_better(drawn: Callable[..., Tensor]) -> None:
    weight, away, to, kept = drawn(9, 9), drawn(2, 9, seed=1), drawn(1, 9, seed=2), drawn(3, 9, seed=3)
    chosen = dict(erase_scale=50.0, preserve_scale=1.0, prior_scale=0.0, ridge=0.5)
    m = objective(weight.numpy(), away.T.numpy(), to.T.numpy(), list(kept.numpy()), np.zeros((9, 9)), chosen)
    turned = turn(weight, away, to, kept.T @ kept + 0.5 * torch.eye(9), 50.0)
    q = torch.linalg.solve(weight.mT, turned.mT).mT.numpy()
    best = np.trace(q.T @ m)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1.0):
        for _ in range(20):
            skew = size * rng.standard_normal((9, 9))
            other = q @ torch.linalg.matrix_exp(torch.from_numpy(skew - skew.T)).numpy()
            assert np.trace(other.T @ m) < best
    flipped = q @ np.diag([*np.ones(8), -1.0])
    assert np.trace(flipped.T @ m) < best


def test_a_guide_that_is_said_twice_is_one_direction(pipeline: DiffusionPipeline) -> None:
    """Plain QR of the published code has as many directions as guides, of which the further ones are of rounding."""
    exact(pipeline)
    once = erased(pipeline, guides=["the sky"])
    for guides in (["the sky"] * 30, ["the sky", "The  SKY", "THE SKY"]):
        assert all(apart(erased(pipeline, guides=guides)[name], weight) < 1e-9 for name, weight in once.items())
    weight = next(iter(values_of(pipeline).values()))
    guide = weight @ last_state(pipeline, "the sky")
    columns = guide[:, None].repeat(1, 5) * (1 + 1e-7 * torch.arange(5, dtype=torch.float64))
    assert basis(columns, relative=1e-5).shape == (len(guide), 1)
    assert np.linalg.qr(columns.numpy())[0].shape == (len(guide), 5)


def test_bases_have_the_rank_of_their_columns(drawn: Callable[..., Tensor]) -> None:
    columns = drawn(8, 3) @ drawn(3, 6, seed=1)
    found = basis(columns, relative=1e-5)
    assert found.shape == (8, 3)
    assert torch.allclose(found.mT @ found, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(found @ (found.mT @ columns), columns)
    assert basis(columns, relative=1e-5, to=1e9).shape == (8, 0)
    assert basis(torch.zeros(8, 2, dtype=torch.float64), relative=1e-5).shape == (8, 0)
    assert basis(torch.zeros(8, 0, dtype=torch.float64), relative=1e-5).shape == (8, 0)


def test_a_prior_counts_as_its_mean(pipeline: DiffusionPipeline) -> None:
    prior = prior_of(exact(pipeline), TEXTS)
    once, twice = (erased(pipeline, prior=Moment(n * prior.matrix, n * prior.tokens)) for n in (1, 2))
    none = erased(pipeline)
    for name, weight in once.items():
        assert apart(twice[name], weight) < 1e-12
        assert apart(none[name], weight) > 1e-4


# What it leaves alone, and its places


@pytest.mark.parametrize("projections", ["values", "both"])
def test_only_the_projections_it_names_change_and_come_back(base_pipeline: DiffusionPipeline, projections: str) -> None:
    chosen = settings_of("oce", preserve=KEPT, projections=projections)
    edit, again = (erase(Base.of_pipeline(base_pipeline), CONCEPTS, chosen, {"prior": None}) for _ in range(2))
    assert all(torch.equal(again.weights[name], weight) for name, weight in edit.weights.items())
    wanted = weights_of(base_pipeline) if projections == "both" else values_of(base_pipeline)
    assert changed_by(edit, base_pipeline) == wanted.keys()


def test_the_workflow_and_python_make_the_same_edit(
    sd_folder: Path, pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("bird\nship\nperson\n")
    entry = {"preserve": {"prior": "names"}, "prior": "names", "guides": ["ground"]}
    made = planned(tmp_path, sd_folder, "oce", entry, priors={"names": {"file": "names.txt"}})
    names = ["bird", "person"]
    chosen = dict(preserve=names, prior=[*names, "ship"], guides=["ground"])
    edit = lethe.erase(pipeline, {"ship": "sky"}, method="oce", **chosen)
    assert made.weights.keys() == edit.weights.keys()
    assert all(apart(made.weights[name], weight) < 1e-5 for name, weight in edit.weights.items())


# What is refused


@pytest.mark.parametrize(
    ("concepts", "changes", "told"),
    [
        ([], {}, "`concepts` must hold at least one concept; got none"),
        ([Concept("1" * 76, "object", "sky")], {}, "'1{76}' needs 78 tokens; the text encoder reads 77: use a shorter"),
        (CONCEPTS, dict(guides=["1" * 76]), "'1{76}' needs 78 tokens"),
        (CONCEPTS, dict(preserve=["1" * 76]), "'1{76}' needs 78 tokens"),
        ([Concept("", "object", "sky")], {}, "'' has no token to erase"),
        (CONCEPTS, dict(prompts=["a photo"]), r"prompts: 'a photo' must hold \{\} exactly once"),
        (CONCEPTS, dict(prompts=[]), r"prompts must hold at least one; \{\} alone is the bare word"),
        (CONCEPTS, dict(projections="keys"), "projections must be one of values, both; got 'keys'"),
    ],
)
def test_what_cannot_be_erased_is_refused_in_a_sentence(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        erased(pipeline, concepts, **changes)


def test_the_manifest_tells_the_published_weights() -> None:
    said = manifest("methods", "oce")
    assert "2605.28902" in said.about
    assert said.settings["required"] == []
    assert "800, 2, 70, 10 for a hundred" in said.settings["properties"]["erase_scale"]["description"]
