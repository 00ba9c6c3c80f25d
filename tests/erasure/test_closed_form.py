"""The closed forms against MACE's equations, layer by layer and token by token, in float64."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lethe.edits.low_rank import apply
from lethe.erasure.closed_form import factorise, fuse, refine
from loops import Case, apart, fused_by_loop, make_case, refined_by_loop

TOLERANCE = 1e-9  # relative; condition numbers stay below 1e6 here, so 1e6 * 2e-16 is the most that the solve loses


def fused_all(case: Case, transform: Tensor, *, scale: float, ridge: float) -> dict[str, Tensor]:
    fusion = fuse(transform, sum(case.moments), case.prior, scale=scale, ridge=ridge)
    updates = [fusion.project(g, lora) for g, lora in zip(case.moments, case.loras, strict=True)]
    return {name: apply(w, fusion.transform, [u[name] for u in updates]) for name, w in case.weights.items()}


sizes = dict(
    seed=st.integers(0, 2**31),
    d=st.integers(1, 8),
    layers=st.integers(1, 3),
    concepts=st.integers(1, 4),
    rank=st.integers(1, 3),
    tokens=st.integers(1, 6),
)
weights = dict(scale=st.sampled_from([0.0, 1e-2, 3.0]), ridge=st.sampled_from([1e-3, 0.5, 40.0]))


# Refinement


@settings(derandomize=True, max_examples=60, deadline=None)
@given(**sizes, **weights)
def test_refine_is_equation_2_for_every_layer(
    seed: int, d: int, layers: int, concepts: int, rank: int, tokens: int, scale: float, ridge: float
) -> None:
    case = make_case(seed, d=d, layers=layers, concepts=concepts, rank=rank, tokens=tokens)
    transform = refine(case.source, case.cross, case.prior, scale=scale, ridge=ridge)
    assert transform.dtype == torch.float64
    for weight in case.weights.values():
        want = refined_by_loop(weight, case, scale, ridge)
        assert apart(apply(weight, transform, []), want) < TOLERANCE
        assert apart(weight, want) > 1e-4  # the case moves something


@pytest.mark.parametrize(("scale", "ridge"), [(0.0, 0.5), (0.7, 0.0), (0.7, 0.5)])
def test_refine_minimises_its_objective(scale: float, ridge: float) -> None:
    case = make_case(1)
    weight = case.weights["layer0"]

    def gradient(at: Tensor) -> Tensor:
        w = at.clone().requires_grad_()
        loss = sum(((w @ f.mT - weight @ g.mT) ** 2).sum() for f, g in case.pairs)
        loss = loss + scale * ((w @ case.preserved.mT - weight @ case.preserved.mT) ** 2).sum()
        loss = loss + ridge * ((w - weight) ** 2).sum()
        return torch.autograd.grad(loss, w)[0]

    found = apply(weight, refine(case.source, case.cross, case.prior, scale=scale, ridge=ridge), [])
    assert gradient(found).norm() < 1e-11 * gradient(weight).norm()


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_refine_changes_nothing_when_the_anchor_is_the_phrase(scale: float) -> None:
    case = make_case(2)
    transform = refine(case.source, case.source.clone(), case.prior, scale=scale, ridge=0.3)
    assert (transform - torch.eye(5, dtype=torch.float64)).abs().max() < 1e-13


def test_refine_maps_phrase_to_anchor_when_nothing_else_is_asked() -> None:
    # As many independent tokens as dimensions and no pull: W T f = W g exactly.
    case = make_case(3, concepts=1, tokens=5)
    (f, g), transform = case.pairs[0], refine(case.source, case.cross, None, scale=0, ridge=0)
    assert apart(transform @ f.mT, g.mT) < 1e-9


def test_refine_without_a_prior_is_a_prior_of_weight_zero() -> None:
    case = make_case(4)
    without = refine(case.source, case.cross, None, scale=5, ridge=0.5)
    assert torch.equal(without, refine(case.source, case.cross, case.prior, scale=0, ridge=0.5))
    assert not torch.allclose(without, refine(case.source, case.cross, case.prior, scale=5, ridge=0.5))


def test_the_transform_may_be_applied_to_the_embeddings_instead(drawn: Callable[..., Tensor]) -> None:
    case = make_case(5)
    transform, embeddings = refine(case.source, case.cross, None, scale=0, ridge=0.5), drawn(7, 5)
    for weight in case.weights.values():
        on_weights = embeddings @ apply(weight, transform, []).mT
        assert apart((embeddings @ transform.mT) @ weight.mT, on_weights) < 1e-13
        assert apart(embeddings @ weight.mT, on_weights) > 1e-2


# Fusion


@settings(derandomize=True, max_examples=60, deadline=None)
@given(**sizes, **weights)
def test_fuse_is_equation_7_for_every_layer(
    seed: int, d: int, layers: int, concepts: int, rank: int, tokens: int, scale: float, ridge: float
) -> None:
    case = make_case(seed, d=d, layers=layers, concepts=concepts, rank=rank, tokens=tokens)
    transform = refine(case.source, case.cross, case.prior, scale=scale, ridge=ridge)
    for name, got in fused_all(case, transform, scale=scale, ridge=ridge).items():
        refined = refined_by_loop(case.weights[name], case, scale, ridge)
        want = fused_by_loop(name, case, refined, scale, ridge)
        assert apart(got, want) < TOLERANCE
        assert apart(refined, want) > 1e-4  # the LoRAs add something


@pytest.mark.parametrize(("scale", "ridge"), [(0.0, 0.5), (0.7, 0.0), (0.7, 0.5)])
def test_fuse_minimises_its_objective(scale: float, ridge: float) -> None:
    case, name = make_case(6), "layer1"
    transform = refine(case.source, case.cross, case.prior, scale=0.2, ridge=0.9)
    weight, refined = case.weights[name], apply(case.weights[name], transform, [])

    def gradient(at: Tensor) -> Tensor:
        w = at.clone().requires_grad_()
        loss = ridge * ((w - refined) ** 2).sum()
        loss = loss + scale * ((w @ case.preserved.mT - weight @ case.preserved.mT) ** 2).sum()
        for e, lora in zip(case.tokens, case.loras, strict=True):
            wanted = (refined + lora[name].up @ lora[name].down) @ e.mT
            loss = loss + ((w @ e.mT - wanted) ** 2).sum()
        return torch.autograd.grad(loss, w)[0]

    found = fused_all(case, transform, scale=scale, ridge=ridge)[name]
    assert gradient(found).norm() < 1e-11 * gradient(weight).norm()


def test_fuse_without_preserved_text_keeps_the_refinement_and_the_rank() -> None:
    case = make_case(7, rank=2)
    transform = refine(case.source, case.cross, case.prior, scale=1, ridge=0.5)
    fusion = fuse(transform, sum(case.moments), case.prior, scale=0, ridge=0.5)
    assert apart(fusion.transform, transform) < 1e-12
    for moment, before in zip(case.moments, case.loras, strict=True):
        for name, update in fusion.project(moment, before).items():
            assert update.down.shape == (2, 5)
            assert update.up is before[name].up


def test_fuse_of_one_concept_without_pulls_keeps_its_lora() -> None:
    case = make_case(8, concepts=1, tokens=9)
    transform = refine(case.source, case.cross, None, scale=0, ridge=0)
    got = fused_all(case, transform, scale=0, ridge=0)
    for name, weight in case.weights.items():
        lora = case.loras[0][name]
        assert apart(got[name], weight @ transform + lora.up @ lora.down) < 1e-10


def test_the_order_of_concepts_does_not_matter() -> None:
    case = make_case(9, concepts=4, tokens=6)
    turned = Case(case.weights, case.pairs[::-1], case.tokens[::-1], case.loras[::-1], case.preserved)
    both = []
    for c in (case, turned):
        transform = refine(c.source, c.cross, c.prior, scale=0.1, ridge=1)
        both.append((transform, fused_all(c, transform, scale=0.1, ridge=1)))
    assert apart(both[0][0], both[1][0]) < 1e-12
    for name in case.weights:
        assert apart(both[0][1][name], both[1][1][name]) < 1e-12


# Both


@pytest.mark.parametrize(("scale", "ridge"), [(-1e-9, 1.0), (1.0, -1e-9)])
def test_negative_weights_are_refused(scale: float, ridge: float) -> None:
    case = make_case(11)
    text = f"`scale` and `ridge` must be >= 0; got {scale} and {ridge}"
    with pytest.raises(ValueError, match=text):
        refine(case.source, case.cross, case.prior, scale=scale, ridge=ridge)
    with pytest.raises(ValueError, match=text):
        fuse(torch.eye(5), case.moments[0], case.prior, scale=scale, ridge=ridge)


@pytest.mark.parametrize("prior", [True, False])
def test_fewer_tokens_than_dimensions_and_no_pull_is_refused_naming_the_arguments(prior: bool) -> None:
    case = make_case(12, d=12, tokens=2)
    kept = case.prior if prior else None
    with pytest.raises(ValueError, match=r"condition number is .*; raise `ridge` or `scale`$"):
        refine(case.source, case.cross, kept, scale=0, ridge=0)
    with pytest.raises(ValueError, match=r"condition number is .*; raise `ridge` or `scale`$"):
        fuse(torch.eye(12), case.moments[0], kept, scale=0, ridge=0)
    refine(case.source, case.cross, kept, scale=0, ridge=1e-3)  # either setting mends it
    fuse(torch.eye(12), case.moments[0], torch.eye(12), scale=1e-3, ridge=0)


def test_inputs_stay_as_they_are() -> None:
    case = make_case(13)
    inputs = [
        case.source,
        case.cross,
        case.prior,
        *case.moments,
        *(t for c in case.loras for u in c.values() for t in (u.down, u.up)),
    ]
    source, cross, prior, first, *_ = inputs
    before = [t.clone() for t in inputs]
    transform = refine(source, cross, prior, scale=0.1, ridge=1)
    given = transform.clone()
    fusion = fuse(transform, first, prior, scale=0.1, ridge=1)
    update = fusion.project(first, case.loras[0])["layer0"]
    weight = case.weights["layer0"]
    kept = weight.clone()
    apply(weight, fusion.transform, [update, update])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert torch.equal(transform, given)
    assert torch.equal(weight, kept)


# The system


def test_factorise_divides_from_the_right(drawn: Callable[..., Tensor]) -> None:
    half, matrix = drawn(6, 6, seed=1), drawn(3, 6, seed=2)
    definite = half @ half.mT + torch.eye(6)
    system = factorise(definite)
    assert apart(system.divide(matrix) @ definite, matrix) < 1e-12
    assert system.condition == pytest.approx(torch.linalg.cond(definite).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("smallest", "outcome"),
    [(1e-15, "refused"), (0.0, "refused"), (-1.0, "refused"), (1e-12, "12 digits"), (1e-10, "")],
)
def test_factorise_refuses_or_warns_by_condition(
    smallest: float, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    matrix = torch.diag(torch.tensor([1.0, smallest, 0.5], dtype=torch.float64))
    with caplog.at_level(logging.WARNING):
        if outcome == "refused":
            number = "1.0e\\+15" if smallest == 1e-15 else "inf"
            with pytest.raises(
                ValueError, match=f"number is {number}, so its solution means nothing; raise `ridge` or `scale`"
            ):
                factorise(matrix)
        else:
            assert factorise(matrix).condition == pytest.approx(1 / smallest)
    assert len(caplog.records) == bool(outcome and outcome != "refused")
    assert all(outcome in record.getMessage() for record in caplog.records)


def test_factorise_reads_both_halves_of_a_matrix() -> None:
    lopsided = torch.tensor([[2.0, 0.3], [0.1, 1.0]], dtype=torch.float64)
    factor = factorise(lopsided).factor
    assert apart(factor @ factor.mT, torch.tensor([[2.0, 0.2], [0.2, 1.0]], dtype=torch.float64)) < 1e-15
