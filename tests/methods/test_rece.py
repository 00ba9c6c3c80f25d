"""RECE: rounds layer by layer and token by token, on weights that change; what must hold whatever the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    kept_tokens,
    planned,
    prior_of,
    prompts_of,
    scale_of,
    settings_of,
    state,
    tokens_of,
    uce_by_loop,
    weights_of,
)
from lethe.bases.base import Base
from lethe.edits.factors import FactoredEdit
from lethe.erasure.closed_form import SingularError
from lethe.erasure.moments import Moment
from lethe.inputs.concepts import Concept
from lethe.methods import uce
from lethe.methods.rece import erase, gram_of, reviving
from lethe.plugins import manifest
from loops import apart


def erased(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept] = CONCEPTS, prior: Moment | None = None, **changes: object
) -> dict[str, Tensor]:
    """The new projections by module name."""
    edit = erase(Base.of_pipeline(pipeline), concepts, settings_of("rece", **changes), {"prior": prior})
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


def by_hand(pipeline: DiffusionPipeline, chosen: dict[str, Any], of_prior: Sequence[str]) -> dict[str, Tensor]:
    """UCE's edit, then rounds on the weights as they are, every layer and every token by itself."""
    original, started = weights_of(pipeline), chosen | chosen["uce"]
    tokens = [token for concept in CONCEPTS for token in tokens_of(pipeline, concept, chosen)]
    kept = kept_tokens(pipeline, chosen) + [token for text in of_prior for token in state(pipeline, text)]
    scale = scale_of(started, len(of_prior))
    current = {name: uce_by_loop(weight, tokens, kept, started, scale) for name, weight in original.items()}
    for _ in range(chosen["rounds"]):
        left = chosen["regularisation"] * torch.eye(len(tokens[0][0]), dtype=torch.float64)
        right = torch.zeros_like(left)
        for name, weight in current.items():
            left, right = left + weight.T @ weight, right + weight.T @ original[name]
        evoking = torch.linalg.inv(left) @ right
        pairs = []
        for concept in CONCEPTS:
            for prompt, guide in prompts_of(concept, chosen):
                both = zip(state(pipeline, prompt), state(pipeline, guide), strict=True)
                pairs += [(evoking @ c, g) for c, g in both]
        for name, weight in current.items():
            current[name] = uce_by_loop(weight, pairs, kept, chosen, chosen["preserve_scale"])
    return current


@pytest.mark.parametrize(
    ("changes", "of_prior"),
    [
        (dict(), []),
        (dict(rounds=3, regularisation=0.1, preserve=KEPT), []),
        (dict(rounds=2, erase_scale=0.4, preserve_scale=0.7, ridge=2.0, expand=True), ["the sky here"]),
        (dict(convention=2025, guide="", preserve=KEPT[:1], uce=dict(preserve_scale=0.3, ridge=2.0)), ["a photo"]),
        (dict(convention=2025, expand=True, rounds=2, uce=dict(erase_scale=0.2)), []),
    ],
    ids=str,
)
def test_an_edit_is_rounds_by_hand_on_every_family(
    base_pipeline: DiffusionPipeline, changes: dict[str, Any], of_prior: list[str]
) -> None:
    pipeline, chosen = exact(base_pipeline), settings_of("rece", **changes)
    before = weights_of(pipeline)
    got = erased(pipeline, prior=prior_of(pipeline, of_prior) if of_prior else None, **changes)
    want = by_hand(pipeline, chosen, of_prior)
    start = erased(pipeline, prior=prior_of(pipeline, of_prior) if of_prior else None, **changes | dict(rounds=0))
    assert list(got) == list(before)
    for name, weight in want.items():
        assert apart(got[name], weight) < 1e-8
        assert apart(got[name], before[name]) > 1e-3
        assert apart(got[name], start[name]) > 1e-4


# What must hold whatever the numbers


def test_without_regularisation_what_evokes_a_token_is_the_edit_undone(pipeline: DiffusionPipeline) -> None:
    before = weights_of(exact(pipeline))
    transform = uce.solve(Base.of_pipeline(pipeline).text, CONCEPTS, settings_of("uce", preserve=KEPT), None)
    found = reviving(transform, gram_of(before.values(), torch.device("cpu")), 1e-12)
    for token in state(pipeline, "ship"):
        assert apart(found @ token, torch.linalg.solve(transform, token)) < 1e-6
        for weight in before.values():
            assert apart(weight @ transform @ found @ token, weight @ token) < 1e-8
    held = reviving(transform, gram_of(before.values(), torch.device("cpu")), 0.1)
    assert apart(held @ token, torch.linalg.solve(transform, token)) > 1e-4


def test_without_rounds_or_weight_it_is_uce(base_pipeline: DiffusionPipeline) -> None:
    pipeline = exact(base_pipeline)
    edit = uce.erase(Base.of_pipeline(pipeline), CONCEPTS, settings_of("uce", preserve=KEPT), {"prior": None})
    none = erased(pipeline, preserve=KEPT, rounds=0)
    weightless = erased(pipeline, preserve=KEPT, rounds=3, erase_scale=0.0)
    for name, weight in none.items():
        assert torch.equal(weight, edit.weights[f"{name}.weight"])
        assert apart(weightless[name], weight) < 1e-9


def test_a_round_on_the_base_itself_is_uce_with_every_token(base_pipeline: DiffusionPipeline) -> None:
    """T = I and r = 0, so that what evokes a token is the token."""
    pipeline = exact(base_pipeline)
    chosen = settings_of("rece", regularisation=0.0, preserve=KEPT, uce=dict(erase_scale=0.0))
    tokens = []
    for concept in CONCEPTS:
        tokens += list(zip(state(pipeline, concept.name), state(pipeline, concept.anchor), strict=True))
    got = erased(pipeline, **chosen)
    for name, weight in weights_of(pipeline).items():
        want = uce_by_loop(weight, tokens, kept_tokens(pipeline, chosen), chosen, chosen["preserve_scale"])
        assert apart(got[name], want) < 1e-8


def test_more_rounds_leave_less_that_evokes_a_concept(pipeline: DiffusionPipeline) -> None:
    """How near the best embedding comes to what the base makes of a concept, which rounds are there to prevent."""
    before = weights_of(exact(pipeline))
    ship = state(pipeline, "ship")[1]

    def missed(rounds: int) -> float:
        after = erased(pipeline, CONCEPTS[:1], rounds=rounds, preserve=KEPT)
        stacked, wanted = torch.cat(list(after.values())), torch.cat(list(before.values())) @ ship
        found = torch.linalg.solve(stacked.T @ stacked + 0.1 * torch.eye(len(ship)), stacked.T @ wanted)
        return (stacked @ found - wanted).norm().item() + 0.1 * found.norm().item()

    assert missed(0) < missed(1) < missed(3)


# What it leaves alone, its forms and its places


@pytest.mark.parametrize("edit_form", ["weights", "factors"])
def test_only_the_projections_of_text_change_and_come_back(base_pipeline: DiffusionPipeline, edit_form: str) -> None:
    edit = erase(Base.of_pipeline(base_pipeline), CONCEPTS, settings_of("rece", edit_form=edit_form), {"prior": None})
    assert edit.form == edit_form
    assert changed_by(edit, base_pipeline) == weights_of(base_pipeline).keys()


def test_both_forms_are_the_same_edit_and_so_is_the_next(base_pipeline: DiffusionPipeline) -> None:
    once, again = (erased(base_pipeline, rounds=2) for _ in range(2))
    factors = settings_of("rece", rounds=2, edit_form="factors")
    edit = erase(Base.of_pipeline(base_pipeline), CONCEPTS, factors, {"prior": None})
    assert isinstance(edit, FactoredEdit)
    edit.install(base_pipeline)
    for name, weight in weights_of(base_pipeline).items():
        assert torch.equal(once[name], again[name])
        assert apart(weight, once[name]) < 1e-5


def test_the_workflow_and_python_make_the_same_edit(
    sd_folder: Path, pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.csv").write_text("name\na bird\nthe ship\nTHE  Ship at sea\nperson\n")
    names = {"file": "names.csv", "column": "name"}
    made = planned(tmp_path, sd_folder, "rece", {"rounds": 2, "preserve": {"prior": "names"}}, priors={"names": names})
    edit = lethe.erase(pipeline, {"ship": "sky"}, method="rece", rounds=2, preserve=["a bird", "person"])
    assert made.weights.keys() == edit.weights.keys()
    assert all(torch.equal(made.weights[name], weight) for name, weight in edit.weights.items())
    assert edit.record["settings"]["method"]["uce"]["ridge"] == 0.5


# What is refused


@pytest.mark.parametrize(
    ("concept", "changes", "told"),
    [
        (Concept("1" * 76, "object", "sky"), {}, "'1{76}' needs 78 tokens; the text encoder reads 77: use a shorter"),
        (Concept("", "object", "sky"), {}, "'' has no token to erase"),
        (Concept("ship", "object", "sky"), dict(convention=2024), "convention must be one of 2023, 2025; got 2024"),
        (
            Concept("ship", "object", "sky"),
            dict(uce=dict(ridge=0.0)),
            r"is .*\(ridge or preserve_scale of the m",
        ),
        (
            Concept("ship", "object", "sky"),
            dict(ridge=0.0, preserve_scale=0.0),
            r"is .*\(ridge of the method\)$",
        ),
    ],
)
def test_what_cannot_be_erased_is_refused_in_a_sentence(
    pipeline: DiffusionPipeline, concept: Concept, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        erased(pipeline, [concept], **changes)


def test_an_edit_that_cannot_be_undone_needs_regularisation() -> None:
    flat, gram = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)), torch.eye(3, dtype=torch.float64)
    with pytest.raises(SingularError, match="condition number is inf"):
        reviving(flat, gram, 0.0)
    assert torch.allclose(reviving(flat, gram, 1e-6), flat, atol=1e-5)


def test_a_list_without_concepts_is_refused(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="`concepts` must hold at least one concept; got none"):
        erased(pipeline, [])


def test_the_manifest_says_what_differs_from_the_paper() -> None:
    said = manifest("methods", "rece")
    assert "2407.12383" in said.about
    assert "here it is fixed" in said.about
    assert said.settings["required"] == []
