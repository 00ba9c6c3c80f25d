"""MACE's Eq. 1-7 as they stand, in numpy: every layer, concept, prompt and token on its own, against `erase`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lethe.edits.adapters import load_lora
from lethe.edits.low_rank import LowRank
from lethe.erasure.moments import ConceptMoments, load_concept_moments, save_concept_moments, second_moment
from lethe.files.loaded import Loaded
from lethe.methods.mace.join import MaceSettings, erase, refinement, transformed

REFINE, FUSE, RIDGE = 0.3, 0.05, 0.7
SETTINGS = MaceSettings("paper", REFINE, RIDGE, FUSE)


@dataclass
class Prompts:
    """Concepts by prompts by tokens: `f` and `g` pair up, `e` are all tokens with the phrase; `p` is preserved."""

    weights: dict[str, np.ndarray]
    f: np.ndarray
    g: np.ndarray
    e: np.ndarray
    p: np.ndarray
    loras: list[dict[str, tuple[np.ndarray, np.ndarray]]]


def draw_prompts(seed: int, *, d: int, outs: tuple[int, ...], concepts: int = 5) -> Prompts:
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(concepts, 4, 12, d)) + rng.normal(size=d)  # text states have a large mean
    weights = {f"block{k}": rng.normal(size=(out, d)) / d**0.5 for k, out in enumerate(outs)}
    return Prompts(
        weights,
        f,
        f + 0.5 * rng.normal(size=f.shape),
        np.concatenate([f, rng.normal(size=(concepts, 4, 2, d))], axis=2),
        rng.normal(size=(3 * d, d)),
        [{n: (rng.normal(size=(len(w), 2)), rng.normal(size=(2, d))) for n, w in weights.items()} for _ in f],
    )


def erased_literally(case: Prompts) -> dict[str, np.ndarray]:
    """Each layer's two systems of normal equations, X R = L, one outer product at a time."""
    edited = {}
    for name, w in case.weights.items():
        identity = np.eye(w.shape[1])
        left, right = RIDGE * w, RIDGE * identity
        for concept in range(len(case.f)):
            for f_prompt, g_prompt in zip(case.f[concept], case.g[concept], strict=True):
                for f, g in zip(f_prompt, g_prompt, strict=True):
                    left, right = left + np.outer(w @ g, f), right + np.outer(f, f)
        for p in case.p:
            left, right = left + REFINE * np.outer(w @ p, p), right + REFINE * np.outer(p, p)
        refined = np.linalg.solve(right.T, left.T).T

        left, right = RIDGE * refined, RIDGE * identity
        for concept, lora in enumerate(case.loras):
            up, down = lora[name]
            for prompt in case.e[concept]:
                for e in prompt:
                    left, right = left + np.outer(refined @ e + up @ (down @ e), e), right + np.outer(e, e)
        for p in case.p:
            left, right = left + FUSE * np.outer(w @ p, p), right + FUSE * np.outer(p, p)
        edited[name] = np.linalg.solve(right.T, left.T).T
    return edited


def inputs_of(case: Prompts, concepts: Sequence[int]) -> tuple[list[ConceptMoments], list[dict[str, LowRank]]]:
    """What the library takes for these concepts."""

    def moment(a: np.ndarray, b: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.einsum("pti,ptj->ij", a, b))

    moments = [
        ConceptMoments(
            moment(case.f[k], case.f[k]),
            moment(case.g[k], case.f[k]),
            second_moment([torch.from_numpy(case.e[k])]).matrix,
        )
        for k in concepts
    ]
    loras = [
        {n: LowRank(torch.from_numpy(down), torch.from_numpy(up)) for n, (up, down) in case.loras[k].items()}
        for k in concepts
    ]
    return moments, loras


def erased(case: Prompts, concepts: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
    moments, loras = inputs_of(case, range(len(case.f)) if concepts is None else concepts)
    weights = {name: torch.from_numpy(w) for name, w in case.weights.items()}
    return erase(weights, moments, loras, torch.from_numpy(case.p.T @ case.p), SETTINGS)


@pytest.mark.parametrize(("d", "outs"), [(48, (20, 40, 80, 80)), (96, (40, 20, 40, 80))])
def test_erase_is_the_equations_solved_layer_by_layer(d: int, outs: tuple[int, ...]) -> None:
    case = draw_prompts(30, d=d, outs=outs)
    got, want = erased(case), erased_literally(case)
    assert list(got) == list(want)
    for name, weight in want.items():
        assert np.abs(got[name].numpy() - weight).max() < 1e-9 * np.abs(weight).max()
        assert np.abs(weight - case.weights[name]).max() > 1e-2 * np.abs(weight).max()


def test_erase_solves_both_objectives() -> None:
    # The gradient of Eq. 1 at W T, and of Eq. 6 at what `erase` returns, by automatic differentiation.
    case = draw_prompts(31, d=24, outs=(12, 7))
    moments, _ = inputs_of(case, range(5))
    prior = torch.from_numpy(case.p.T @ case.p)
    f, g, e, p = (torch.from_numpy(part.reshape(-1, 24)) for part in (case.f, case.g, case.e, case.p))
    weights = {name: torch.from_numpy(w) for name, w in case.weights.items()}
    refined, final = transformed(weights, refinement(moments, prior, SETTINGS)), erased(case)
    updates = {n: [torch.from_numpy(up @ down) for up, down in (c[n] for c in case.loras)] for n in weights}

    def gradient(objective: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> float:
        w = at.clone().requires_grad_()
        return torch.autograd.grad(objective(w), w)[0].norm().item()

    for name, start in weights.items():

        def kept(w: torch.Tensor, start: torch.Tensor = start) -> torch.Tensor:
            return ((w - start) @ p.mT).square().sum()

        def refining(w: torch.Tensor, start: torch.Tensor = start) -> torch.Tensor:
            moved = (w @ f.mT - start @ g.mT).square().sum()
            return moved + REFINE * kept(w) + RIDGE * (w - start).square().sum()

        def fusing(w: torch.Tensor, name: str = name) -> torch.Tensor:
            tokens = e.reshape(5, -1, 24)
            moved = sum(
                ((w - refined[name] - b) @ t.mT).square().sum() for b, t in zip(updates[name], tokens, strict=True)
            )
            return moved + FUSE * kept(w) + RIDGE * (w - refined[name]).square().sum()

        assert gradient(refining, refined[name]) < 1e-11 * gradient(refining, start)
        assert gradient(fusing, final[name]) < 1e-11 * gradient(fusing, refined[name])


# What must hold whatever the numbers are


def test_erasing_nothing_changes_nothing() -> None:
    case = draw_prompts(32, d=16, outs=(8, 5), concepts=2)
    case.g = case.f  # every phrase is its own anchor
    case.loras = [{n: (np.zeros_like(up), down) for n, (up, down) in lora.items()} for lora in case.loras]
    for name, weight in erased(case).items():
        assert np.abs(weight.numpy() - case.weights[name]).max() < 1e-12


def test_a_concept_added_and_left_out_again_leaves_no_trace(tmp_path: Path) -> None:
    case = draw_prompts(33, d=16, outs=(8, 5), concepts=4)
    for k, (moments, lora) in enumerate(zip(*inputs_of(case, range(4)), strict=True)):
        save_concept_moments(tmp_path / f"{k}.moments", moments, {})
        layers = {f"unet.{n}.lora_A.weight": u.down for n, u in lora.items()}
        layers |= {f"unet.{n}.lora_B.weight": u.up for n, u in lora.items()}
        save_file({key: t.contiguous() for key, t in layers.items()}, tmp_path / f"{k}.lora")
    weights = {name: torch.from_numpy(w) for name, w in case.weights.items()}

    def joined(concepts: Sequence[int]) -> dict[str, torch.Tensor]:
        moments = Loaded(load_concept_moments, [tmp_path / f"{k}.moments" for k in concepts])
        return erase(weights, moments, Loaded(load_lora, [tmp_path / f"{k}.lora" for k in concepts]), None, SETTINGS)

    first, more, again = joined([0, 1, 3]), joined([0, 1, 2, 3]), joined([0, 1, 3])
    for name in weights:
        assert torch.equal(first[name], again[name])
        assert (first[name] - more[name]).abs().max() > 1e-3


def test_the_order_of_concepts_does_not_matter() -> None:
    case = draw_prompts(34, d=16, outs=(8, 5))
    straight, turned = erased(case), erased(case, [3, 0, 4, 2, 1])
    for name, weight in straight.items():
        assert (weight - turned[name]).abs().max() < 1e-12 * weight.abs().max()


def test_refined_weights_read_text_as_the_old_ones_read_transformed_text() -> None:
    case = draw_prompts(35, d=16, outs=(8, 5))
    transform = refinement(inputs_of(case, range(5))[0], None, SETTINGS)
    weights = {name: torch.from_numpy(w) for name, w in case.weights.items()}
    states = torch.from_numpy(case.e[0])
    for name, weight in transformed(weights, transform).items():
        on_text = states @ transform.mT @ weights[name].mT
        assert (states @ weight.mT - on_text).abs().max() < 1e-12 * on_text.abs().max()
        assert (states @ weights[name].mT - on_text).abs().max() > 1e-2 * on_text.abs().max()


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-13])
def test_systems_without_a_pull_are_refused_naming_the_settings(prior: bool, ridge: float) -> None:
    case = draw_prompts(36, d=64, outs=(8,), concepts=1)  # 48 pairs of words for 64 dimensions
    moments, loras = inputs_of(case, [0])
    weights = {name: torch.from_numpy(w) for name, w in case.weights.items()}
    few = torch.from_numpy(case.p[:5].T @ case.p[:5]) if prior else None
    with pytest.raises(
        ValueError,
        match=r"condition number is .*; raise `ridge` or `scale` \(lamb or train_preserve_scale of the method\)$",
    ):
        erase(weights, moments, loras, few, MaceSettings("paper", 1.0, ridge, 1.0))
