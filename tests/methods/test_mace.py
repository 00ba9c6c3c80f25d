"""MACE as a whole: refinement, then fusion, against the two equations written out for each projection."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import unet_inputs
from lethe.bases.pipeline import text_encoders
from lethe.bases.prompts import aligned_positions
from lethe.bases.text import encode_prompts
from lethe.bases.unet import cross_attention_projections, set_projections
from lethe.edits.low_rank import LowRank
from lethe.erasure.moments import ConceptMoments, concept_moments, second_moment
from lethe.inputs.templates import fill
from lethe.methods.mace.join import MaceSettings, RefinementSettings, erase, join, preserved, refinement, transformed
from loops import Case, apart, fused_by_loop, make_case, refined_by_loop

SETTINGS = MaceSettings(scale_convention="paper", train_preserve_scale=0.3, lamb=0.7, fuse_preserve_scale=0.05)


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


def test_the_factors_of_a_join_make_the_weights_that_erase_makes() -> None:
    case = make_case(27, concepts=3, layers=3)
    transform, concepts = join(case.weights, moments_of(case), case.loras, case.prior, SETTINGS)
    updates = list(concepts)
    assert [set(update) for update in updates] == [set(case.weights)] * 3
    want = erase(case.weights, moments_of(case), case.loras, case.prior, SETTINGS)
    for name, weight in case.weights.items():
        got = weight @ transform
        for update, lora in zip(updates, case.loras, strict=True):
            assert torch.equal(update[name].up, lora[name].up)
            assert update[name].down.shape == lora[name].down.shape
            got = got + update[name].up @ update[name].down
        assert apart(got, want[name]) < 1e-12


@pytest.mark.parametrize("fusion", ["sum", "none"])
def test_without_the_solve_loras_are_added_up_or_left_out(fusion: str) -> None:
    case = make_case(28, concepts=3, layers=3)
    settings = dataclasses.replace(SETTINGS, fusion=fusion)
    loras = case.loras if fusion == "sum" else [{}] * 3
    got = erase(case.weights, moments_of(case), loras, case.prior, settings)
    transform, concepts = join(case.weights, moments_of(case), loras, case.prior, settings)
    updates = list(concepts)
    for name, weight in case.weights.items():
        want = refined_by_loop(weight, case, SETTINGS.refine_scale, SETTINGS.lamb)
        for lora in case.loras if fusion == "sum" else []:
            want = want + lora[name].up @ lora[name].down
        assert apart(got[name], want) < 1e-10
        factored = weight @ transform + sum(update[name].up @ update[name].down for update in updates)
        assert apart(factored, want) < 1e-10


def test_an_unknown_fusion_is_refused() -> None:
    case = make_case(28)
    with pytest.raises(ValueError, match="fusion must be one of closed-form, sum, none; got 'mean'"):
        erase(case.weights, moments_of(case), case.loras, None, dataclasses.replace(SETTINGS, fusion="mean"))


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


# The weights of the priors


def erased_by_loop(
    name: str, case: Case, kept: list[tuple[float, Tensor]], *, refine_scale: float, fuse_scale: float, lamb: float
) -> tuple[Tensor, Tensor]:
    """Refined and fused weights of one projection; every token adds its outer products by itself.

    `kept` is (share, embedding) for every token to preserve.
    """
    w0, eye = case.weights[name], torch.eye(case.weights[name].shape[1], dtype=torch.float64)
    left, right = lamb * w0, lamb * eye
    for f, g in case.pairs:
        for k in range(len(f)):
            left, right = left + torch.outer(w0 @ g[k], f[k]), right + torch.outer(f[k], f[k])
    for share, e in kept:
        pull = refine_scale * share * torch.outer(e, e)
        left, right = left + w0 @ pull, right + pull
    refined = left @ torch.linalg.inv(right)
    left, right = lamb * refined, lamb * eye
    for tokens, lora in zip(case.tokens, case.loras, strict=True):
        for e in tokens:
            wanted = refined @ e + lora[name].up @ (lora[name].down @ e)
            left, right = left + torch.outer(wanted, e), right + torch.outer(e, e)
    for share, e in kept:
        pull = fuse_scale * share * torch.outer(e, e)
        left, right = left + w0 @ pull, right + pull
    return refined, left @ torch.linalg.inv(right)


@pytest.mark.parametrize(("convention", "refine_scale"), [("paper", 0.3), ("published-code", 0.3 * 0.3)])
@pytest.mark.parametrize(("texts", "names"), [(4, 2), (4, 0), (0, 2)])
def test_each_convention_and_domain_weight_is_its_solve_prompt_by_prompt(
    drawn: Callable[..., Tensor], convention: str, refine_scale: float, texts: int, names: int
) -> None:
    case = make_case(26, concepts=2, layers=2)
    prompts, domain = drawn(texts, 3, 5, seed=1), drawn(names, 3, 5, seed=2)
    moments = [second_moment([some]) if len(some) else None for some in (prompts, domain)]
    given = [None if moment is None else moment.matrix.clone() for moment in moments]
    settings = dataclasses.replace(SETTINGS, scale_convention=convention)
    prior = preserved(*moments, weight=2.5)
    transform = refinement(moments_of(case), prior, settings)
    got = erase(case.weights, moments_of(case), case.loras, prior, settings)
    tokens = [(1.0, e) for prompt in prompts for e in prompt] + [(2.5, e) for prompt in domain for e in prompt]
    scales = dict(refine_scale=refine_scale, fuse_scale=0.05, lamb=0.7)
    for name, weight in case.weights.items():
        refined, fused = erased_by_loop(name, case, tokens, **scales)
        assert apart(weight @ transform, refined) < 1e-10
        assert apart(got[name], fused) < 1e-10
        other_convention = erased_by_loop(name, case, tokens, **scales | {"refine_scale": 0.39 - refine_scale})
        other_weight = erased_by_loop(name, case, [(1.0, e) for _, e in tokens], **scales)
        assert apart(weight @ transform, other_convention[0]) > 1e-4
        assert names == 0 or apart(got[name], other_weight[1]) > 1e-4
    for moment, before in zip(moments, given, strict=True):
        assert moment is None or torch.equal(moment.matrix, before)


def test_nothing_is_preserved_without_priors() -> None:
    assert preserved(None, None, weight=3.0) is None


def test_refinement_needs_no_setting_of_the_fusion() -> None:
    case = make_case(27)
    settings = RefinementSettings("paper", train_preserve_scale=0.3, lamb=0.7)
    transforms = [refinement(moments_of(case), case.prior, some) for some in (settings, SETTINGS)]
    assert torch.equal(*transforms)


def test_an_unknown_convention_is_refused() -> None:
    case = make_case(28)
    settings = dataclasses.replace(SETTINGS, scale_convention="published")
    with pytest.raises(ValueError, match="scale_convention must be one of paper, published-code; got 'published'"):
        refinement(moments_of(case), case.prior, settings)


def test_systems_without_any_weight_are_refused_by_the_names_of_the_settings() -> None:
    case = make_case(29, d=12, tokens=2)
    bare = dataclasses.replace(SETTINGS, train_preserve_scale=0, fuse_preserve_scale=0, lamb=0)
    with pytest.raises(ValueError, match=r"\(lamb or train_preserve_scale of the method\)$"):
        refinement(moments_of(case), case.prior, bare)
    refined = dataclasses.replace(bare, train_preserve_scale=1.0)
    with pytest.raises(ValueError, match=r"\(lamb or fuse_preserve_scale of the method\)$"):
        erase(case.weights, moments_of(case), case.loras, torch.eye(12, dtype=torch.float64), refined)


# Real networks


def test_erase_is_both_equations_on_every_family(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]
) -> None:
    """Equations 1-2 and 6-7 as sums over embeddings of real prompts, projection by projection, one inverse for each."""
    text, unet, template = text_encoders(base_pipeline), base_pipeline.unet, "a photo of the {} here"
    pairs, d = [("ship", "sky"), ("P!nk", "a person")], base_pipeline.unet.config.cross_attention_dim
    projections = {name: module.weight.detach() for name, module in cross_attention_projections(unet).items()}
    loras = [
        {
            name: LowRank(0.1 * drawn(1, d, seed=90 + k), drawn(len(weight), 1, seed=k))
            for name, weight in projections.items()
        }
        for k in range(2)
    ]
    states = {
        words: next(encode_prompts(text, [fill(template, words)]))[0].double() for pair in pairs for words in pair
    }
    kept = torch.cat(list(encode_prompts(text, ["a bird", "the sky"]))).double().flatten(0, 1)
    aligned = [aligned_positions(text.tokenizer, template, *pair) for pair in pairs]
    f = torch.cat([states[phrase][at] for (phrase, _), (at, _) in zip(pairs, aligned, strict=True)])
    g = torch.cat([states[anchor][at] for (_, anchor), (_, at) in zip(pairs, aligned, strict=True)])
    got = erase(
        projections,
        [concept_moments(text, *pair, [template]) for pair in pairs],
        loras,
        second_moment([kept]).matrix,
        SETTINGS,
    )
    assert list(got) == list(projections)
    prior, eye = kept.mT @ kept, torch.eye(d, dtype=torch.float64)
    for name, weight in projections.items():
        w = weight.double()
        refined = (w @ g.mT @ f + 0.3 * w @ prior + 0.7 * w) @ torch.linalg.inv(f.mT @ f + 0.3 * prior + 0.7 * eye)
        left, right = 0.05 * w @ prior + 0.7 * refined, 0.05 * prior + 0.7 * eye
        for (phrase, _), lora in zip(pairs, loras, strict=True):
            e = states[phrase]
            left += (refined + lora[name].up @ lora[name].down) @ e.mT @ e
            right += e.mT @ e
        assert apart(got[name].double(), left @ torch.linalg.inv(right)) < 1e-5  # the weights are float32
        assert apart(got[name].double(), w) > 1e-2
    inputs = unet_inputs(unet, drawn)
    with torch.no_grad():
        before = unet(**inputs).sample
        set_projections(unet, got)
        assert (unet(**inputs).sample - before).abs().max() > 1e-3
