"""MACE as a whole: refinement, then fusion, against the two equations written out for each projection."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import pytest
import torch

from lethe.methods.mace import MaceSettings, erase, refinement, transformed
from lethe.moments import ConceptMoments
from test_closed_form import Case, apart, fused_by_loop, make_case, refined_by_loop

SETTINGS = MaceSettings(refine_scale=0.3, fuse_scale=0.05, ridge=0.7)


def moments_of(case: Case) -> list[ConceptMoments]:
    return [ConceptMoments(f.mT @ f, g.mT @ f, fusion) for (f, g), fusion in zip(case.pairs, case.moments, strict=True)]


@pytest.mark.parametrize("concepts", [1, 3])
def test_erase_is_both_equations(concepts: int) -> None:
    case = make_case(20, concepts=concepts, layers=3)
    before = {name: weight.clone() for name, weight in case.weights.items()}
    got = erase(case.weights, moments_of(case), case.loras, case.prior, SETTINGS)
    assert list(got) == list(case.weights)
    for name, weight in case.weights.items():
        refined = refined_by_loop(weight, case, 0.3, 0.7)
        assert apart(got[name], fused_by_loop(name, case, refined, 0.05, 0.7)) < 1e-10
        assert apart(got[name], weight) > 1e-2
        assert torch.equal(weight, before[name])


def test_erase_without_a_prior_ignores_its_weights() -> None:
    case = make_case(21)
    got = erase(case.weights, moments_of(case), case.loras, None, SETTINGS)
    case.preserved = case.preserved[:0]
    for name, weight in case.weights.items():
        want = fused_by_loop(name, case, refined_by_loop(weight, case, 0, 0.7), 0, 0.7)
        assert apart(got[name], want) < 1e-10


def test_refinement_sums_the_concepts() -> None:
    case = make_case(22, concepts=3)
    refined = transformed(case.weights, refinement(moments_of(case), case.prior, SETTINGS))
    for name, weight in case.weights.items():
        assert apart(refined[name], refined_by_loop(weight, case, 0.3, 0.7)) < 1e-10


def test_transformed_keeps_the_dtype_and_the_weights() -> None:
    case = make_case(23)
    weights = {name: weight.to(torch.bfloat16) for name, weight in case.weights.items()}
    before = {name: weight.clone() for name, weight in weights.items()}
    refined = transformed(weights, refinement(moments_of(case), None, SETTINGS))
    assert all(weight.dtype == torch.bfloat16 for weight in refined.values())
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_a_projection_beyond_the_loras_is_refused() -> None:
    case = make_case(24)
    del case.loras[1]["layer1"]
    with pytest.raises(ValueError, match="a LoRA has no update for layer1; was it trained on another base?"):
        erase(case.weights, moments_of(case), case.loras, case.prior, SETTINGS)


class Counted(Sequence):
    """Makes each concept's moments anew, and knows how many were alive at once."""

    def __init__(self, moments: list[ConceptMoments]) -> None:
        self.moments, self.most = moments, 0

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: int) -> ConceptMoments:
        fresh = ConceptMoments(*(t.clone() for t in vars(self.moments[index]).values()))
        alive = sum(type(o) is ConceptMoments for o in gc.get_objects()) - len(self.moments)
        self.most = max(self.most, alive)
        return fresh

    def __iter__(self) -> Iterator[ConceptMoments]:
        return (self[index] for index in range(len(self)))


def test_erase_holds_few_concepts_at_a_time() -> None:
    case = make_case(26, concepts=9)
    moments = Counted(moments_of(case))
    streamed = erase(case.weights, moments, case.loras, case.prior, SETTINGS)
    whole = erase(case.weights, moments.moments, case.loras, case.prior, SETTINGS)
    assert 1 <= moments.most <= 3  # the sum, the one in use and the one being read
    assert all(torch.equal(streamed[name], whole[name]) for name in whole)


def test_concepts_and_loras_must_pair_up() -> None:
    case = make_case(25)
    with pytest.raises(ValueError, match="`moments` and `loras` must pair up; got 2 and 1"):
        erase(case.weights, moments_of(case), case.loras[:1], case.prior, SETTINGS)
