"""SPEED: its formula as the paper writes it, layer by layer with general inverses; its null space and its limits."""

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
    changed_by,
    exact,
    last_state,
    planned,
    settings_of,
    state,
    weights_of,
)
from conftest import WINDOW
from lethe.bases.base import Base
from lethe.erasure.moments import ConceptMoments
from lethe.inputs.concepts import Concept
from lethe.methods import speed, uce
from lethe.methods.mace.join import RefinementSettings, refinement, transformed
from lethe.plugins import manifest
from loops import apart

RETAINED = [
    "a bird",
    "person",
    "the ground",
    "a photo",
    "the picture of the sky",
    "a ship is a ship",
]
PLAIN = dict(filter=False, variations=0)


def erased(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept] = CONCEPTS, seed: int = 5, **changes: object
) -> dict[str, Tensor]:
    """The new projections by module name."""
    chosen = settings_of("speed", **changes) | {"seed": seed}
    edit = speed.erase(Base.of_pipeline(pipeline), concepts, chosen, {})
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


def values_of(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights_of(pipeline).items() if name.endswith("to_v")}


# The formula, in numpy


def tokens_of(pipeline: DiffusionPipeline, chosen: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for concept in CONCEPTS:
        guide = concept.anchor if chosen["guide"] is None else chosen["guide"]
        if chosen["tokens"] == "last":
            pairs.append((last_state(pipeline, concept.name).numpy(), last_state(pipeline, guide).numpy()))
        else:
            both = state(pipeline, concept.name).numpy(), state(pipeline, guide).numpy()
            pairs += [(both[0][place], both[1][place]) for place in range(1, WINDOW)]
    return pairs


def retained_of(pipeline: DiffusionPipeline, chosen: dict[str, Any]) -> list[np.ndarray]:
    texts = [text for text in chosen["retain"] if "ship" not in text.split()]
    if chosen["tokens"] == "last":
        return [last_state(pipeline, text).numpy() for text in texts]
    return [token for text in texts for token in state(pipeline, text).numpy()[1:]]


def invariants_of(pipeline: DiffusionPipeline, centres: int) -> np.ndarray:
    """The empty prompt's first token, and centres of the others by Lloyd's iteration."""
    first, *others = state(pipeline, "").numpy()
    found = [others[round(k * (len(others) - 1) / max(1, centres - 1))] for k in range(centres)]
    for _ in range(100 if centres else 0):
        nearest = [int(np.argmin([np.sum((token - centre) ** 2) for centre in found])) for token in others]
        found = [np.mean([t for t, n in zip(others, nearest, strict=True) if n == k], axis=0) for k in range(centres)]
    return np.stack([first, *found], axis=1)


def stronger(tokens: list[np.ndarray], influence: Callable[[np.ndarray], float]) -> list[np.ndarray]:
    values = [influence(token) for token in tokens]
    return [token for token, value in zip(tokens, values, strict=True) if value >= sum(values) / len(values)]


def by_formula(pipeline: DiffusionPipeline, chosen: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    pairs = tokens_of(pipeline, chosen)
    a = sum(np.outer(g, c) for c, g in pairs) / len(pairs)
    b = sum(np.outer(c, c) for c, _ in pairs) / len(pairs)
    eye, found = np.eye(len(a)), {}
    for name, tensor in weights_of(pipeline).items():
        if chosen["projections"] == "values" and not name.endswith("to_v"):
            continue
        weight = tensor.numpy()

        def influence(token: np.ndarray, weight: np.ndarray = weight) -> float:
            return np.linalg.norm(weight @ (a - b) @ np.linalg.inv(eye + b) @ token)

        kept = retained_of(pipeline, chosen)
        if chosen["filter"] and kept:
            kept = stronger(kept, influence)
        if chosen["variations"] and kept:
            least = np.linalg.svd(weight, full_matrices=False)[2][-1]
            least = -least if max(least) < -min(least) else least
            drawn = torch.Generator().manual_seed(seed)
            texts, refined = list(kept), list(kept)
            for start in range(0, len(texts), 128):
                copies = texts[start : start + 128] * chosen["variations"]
                amounts = torch.randn(len(copies), 1, generator=drawn, dtype=torch.float64).numpy()
                copies = [token + amount * least for token, amount in zip(copies, amounts, strict=True)]
                refined += stronger(copies, influence) if chosen["filter"] else copies
            kept = refined
        p = eye
        if kept:
            u, s, _ = np.linalg.svd(sum(np.outer(r, r) for r in kept) / len(kept))
            p = u[:, s < chosen["tau"]] @ u[:, s < chosen["tau"]].T
        m, q = np.linalg.inv(b @ p + chosen["ridge"] * eye), eye
        if chosen["invariants"] is not None:
            k = invariants_of(pipeline, chosen["invariants"])
            inner = k.T @ p @ m @ k + chosen["invariants_ridge"] * np.eye(k.shape[1])
            q = eye - m @ k @ np.linalg.inv(inner) @ k.T @ p
        found[name] = weight + weight @ (a - b) @ p @ q @ m
    return found


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(retain=RETAINED),
        dict(retain=RETAINED, **PLAIN, tau=1e-4, ridge=0.05, projections="both"),
        dict(retain=RETAINED, filter=False, variations=40, guide="person", invariants=0),
        dict(retain=RETAINED, variations=0, tau=3.0, ridge=0.3, invariants=None),
        dict(retain=[" "], tokens="all", tau=0.2, ridge=0.7, invariants_ridge=0.5, guide=""),
        dict(retain=RETAINED[:3], tokens="all", tau=1.5, invariants=2, variations=2, invariants_ridge=0.1),
    ],
    ids=str,
)
def test_an_edit_is_the_formula_on_every_family(base_pipeline: DiffusionPipeline, changes: dict[str, Any]) -> None:
    pipeline, chosen = exact(base_pipeline), settings_of("speed", **changes)
    before = weights_of(pipeline)
    got, want = erased(pipeline, **changes), by_formula(pipeline, chosen, 5)
    assert got.keys() == want.keys() == (before if chosen["projections"] == "both" else values_of(pipeline)).keys()
    for name, weight in want.items():
        assert apart(got[name], torch.from_numpy(weight)) < 1e-7
        assert apart(got[name], before[name]) > 1e-3


# What must hold whatever the numbers


def test_nothing_of_what_is_retained_and_no_invariant_moves(base_pipeline: DiffusionPipeline) -> None:
    pipeline = exact(base_pipeline)
    invariants = torch.from_numpy(invariants_of(pipeline, 3))
    retained = torch.stack([last_state(pipeline, text) for text in RETAINED[:5]], dim=1)
    concept = last_state(pipeline, "P!nk")
    for name, weight in erased(pipeline, retain=RETAINED, **PLAIN, tau=1e-8).items():
        change = weight - values_of(pipeline)[name]
        moved = (change @ concept).norm() / concept.norm()
        assert moved > 1e-3
        for still in (invariants, retained):
            assert (change @ still).norm() / still.norm() < 1e-9 * moved
    for name, weight in erased(pipeline, retain=RETAINED, **PLAIN, tau=1e-8, invariants_ridge=0.5).items():
        change = weight - values_of(pipeline)[name]
        assert (change @ invariants).norm() > 1e-4
        assert (change @ retained).norm() < 1e-9


def test_invariants_that_are_retained_anyhow_change_nothing(pipeline: DiffusionPipeline) -> None:
    exact(pipeline)
    texts = dict(retain=[" ", "person"], tau=1e-6, **PLAIN)  # the first one's last token is start-of-text
    with_them, without = erased(pipeline, **texts, invariants=0), erased(pipeline, **texts, invariants=None)
    assert all(apart(weight, without[name]) < 1e-9 for name, weight in with_them.items())


@pytest.mark.parametrize("ridge", [1.0, 0.05])
def test_with_nothing_to_retain_it_is_uce_and_maces_refinement(base_pipeline: DiffusionPipeline, ridge: float) -> None:
    """The same solve on other tokens: no preserved text, weight 1 / number of concepts, and the same pull."""
    pipeline = exact(base_pipeline)
    got = erased(pipeline, ridge=ridge, invariants=None, projections="both")
    chosen = settings_of("uce", convention=2025, erase_scale=1 / len(CONCEPTS), ridge=ridge)
    edit = uce.erase(Base.of_pipeline(pipeline), CONCEPTS, chosen, {"prior": None})
    moments = []
    for concept in CONCEPTS:
        f, g = (last_state(pipeline, text) / len(CONCEPTS) ** 0.5 for text in (concept.name, concept.anchor))
        moments.append(ConceptMoments(torch.outer(f, f), torch.outer(g, f), torch.zeros(len(f), len(f))))
    refined = transformed(weights_of(pipeline), refinement(moments, None, RefinementSettings("paper", 0.0, ridge)))
    for name, weight in got.items():
        assert apart(weight, edit.weights[f"{name}.weight"]) < 1e-9
        assert apart(weight, refined[name]) < 1e-9


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-4])
def test_its_limit_is_double_projections(base_pipeline: DiffusionPipeline, share: float) -> None:
    """arXiv 2604.10032: dW = W (c* - c) x^T U2^T / |x|^2, x = U2^T c, U2 a null basis of what is preserved.

    With one concept and no invariants a ridge leaves 1 / (1 + ridge / |x|^2) of it.
    """
    pipeline = exact(base_pipeline)
    preserved = np.stack([last_state(pipeline, text).numpy() for text in RETAINED[:3]])
    null = torch.from_numpy(np.linalg.svd(preserved)[2][3:].T)
    c, target = last_state(pipeline, "ship"), last_state(pipeline, "the sky")
    x = null.T @ c
    chosen = dict(retain=RETAINED[:3], **PLAIN, tau=1e-8, ridge=share * x.dot(x).item(), invariants=None)
    for name, weight in erased(pipeline, CONCEPTS[:1], **chosen).items():
        before = values_of(pipeline)[name]
        change = torch.outer(before @ (target - c), null @ x) / x.dot(x)
        assert torch.allclose((before + change) @ c, before @ target)
        assert apart(weight - before, change / (1 + share)) < 1e-8


def test_without_choices_by_layer_one_transform_serves_all(pipeline: DiffusionPipeline) -> None:
    before = weights_of(exact(pipeline))
    stacked = torch.cat(list(before.values()))
    assert torch.linalg.matrix_rank(stacked) == 32
    after = torch.cat(list(erased(pipeline, retain=RETAINED, **PLAIN, projections="both").values()))
    transform = torch.linalg.lstsq(stacked, after).solution
    assert apart(stacked @ transform, after) < 1e-9
    chosen = torch.cat(list(erased(pipeline, retain=RETAINED, projections="both").values()))
    assert apart(stacked @ torch.linalg.lstsq(stacked, chosen).solution, chosen) > 1e-4


# What it leaves alone, what is drawn, and its places


@pytest.mark.parametrize("projections", ["values", "both"])
def test_only_the_projections_it_names_change_and_come_back(base_pipeline: DiffusionPipeline, projections: str) -> None:
    chosen = settings_of("speed", retain=RETAINED, projections=projections) | {"seed": 5}
    edit = speed.erase(Base.of_pipeline(base_pipeline), CONCEPTS, chosen, {})
    wanted = weights_of(base_pipeline) if projections == "both" else values_of(base_pipeline)
    assert changed_by(edit, base_pipeline) == wanted.keys()


def test_the_seed_decides_on_the_variations_alone(pipeline: DiffusionPipeline) -> None:
    chosen = dict(retain=RETAINED, tau=2.0)  # more than some directions of what is retained have
    once, again, other = (erased(pipeline, seed=seed, **chosen) for seed in (5, 5, 6))
    assert all(torch.equal(once[name], weight) for name, weight in again.items())
    assert not any(torch.equal(once[name], weight) for name, weight in other.items())
    both = erased(pipeline, projections="both", **chosen)
    assert all(torch.equal(both[name], weight) for name, weight in once.items())
    none = (erased(pipeline, seed=seed, variations=0, **chosen) for seed in (5, 6))
    first, second = none
    assert all(torch.equal(first[name], weight) for name, weight in second.items())


def test_texts_that_name_a_concept_are_not_retained(pipeline: DiffusionPipeline) -> None:
    named = [*RETAINED[:5], "the SHIP", "p!nk", "P!nk's bird", "a  ship at sea", "a bird"]
    got, want = erased(pipeline, retain=named), erased(pipeline, retain=RETAINED[:5])
    assert all(torch.equal(got[name], weight) for name, weight in want.items())
    few, more = (erased(pipeline, retain=texts, **PLAIN) for texts in (named, [*named, "shipping pinks"]))
    assert not any(torch.equal(more[name], weight) for name, weight in few.items())


def test_the_workflow_and_python_make_the_same_edit(
    sd_folder: Path, pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("bird\nship\nperson\n")
    entry = {"kind": "speed", "retain": {"prior": "names"}, "invariants": 2}
    names = {"file": "names.txt", "templates": ["a {}", "the {} here"]}
    made = planned(tmp_path, sd_folder, "mine", entry, priors={"names": names}, seed=7)
    texts = ["a bird", "the bird here", "a person", "the person here"]
    edit = lethe.erase(pipeline, {"ship": "sky"}, method="speed", retain=texts, invariants=2, seed=7)
    assert made.weights.keys() == edit.weights.keys()
    assert all(torch.equal(made.weights[name], weight) for name, weight in edit.weights.items())


# What is refused


@pytest.mark.parametrize(
    ("concepts", "changes", "told"),
    [
        ([], {}, "`concepts` must hold at least one concept; got none"),
        ([Concept("1" * 76, "object", "sky")], {}, "'1{76}' needs 78 tokens; the text encoder reads 77: use a shorter"),
        (CONCEPTS, dict(retain=["1" * 76]), "'1{76}' needs 78 tokens"),
        ([Concept("", "object", "sky")], {}, "'' has no token to erase"),
        (CONCEPTS, dict(invariants=77), "invariants must be at most 76, as many tokens as stand behind the first"),
        (CONCEPTS, dict(projections="keys"), "projections must be one of values, both; got 'keys'"),
        (CONCEPTS, dict(ridge=0.0), r"condition number is .*\(ridge of the method\)$"),
        (
            CONCEPTS,
            dict(retain=RETAINED, tokens="all", tau=1e-30, **PLAIN),
            r"no direction of what is retained is below tau \(1e-30\), so nothing may change; raise tau, or retain",
        ),
    ],
)
def test_what_cannot_be_erased_is_refused_in_a_sentence(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        erased(pipeline, concepts, **changes)


def test_the_manifest_says_what_tau_depends_on() -> None:
    said = manifest("methods", "speed")
    assert "2503.07392" in said.about
    assert said.more["draws"]
    assert said.settings["required"] == []
    assert "another text encoder" in said.settings["properties"]["tau"]["description"]
