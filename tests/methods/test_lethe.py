"""The project's own closed form: its sums token by token, layer by layer with a general inverse, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import lethe
from closed import CONCEPTS, changed_by, exact, planned, prior_of, settings_of, state, weights_of
from conftest import WINDOW
from lethe.bases.base import Base
from lethe.edits.factors import FactoredEdit
from lethe.erasure.moments import Moment, concept_moments
from lethe.inputs.concepts import Concept
from lethe.methods import lethe as method
from lethe.methods.mace.join import RefinementSettings, refinement, transformed
from loops import apart

RETAINED = ["bird", "a ship is a ship", "person"]
PROMPTS = ["{}", "a picture of {} on the ground", "the {} here"]


def erased(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept] = CONCEPTS, prior: Moment | None = None, **changes: object
) -> dict[str, Tensor]:
    """The new projections by module name."""
    chosen = settings_of("lethe", **{"prompts": PROMPTS} | changes)
    edit = method.erase(Base.of_pipeline(pipeline), concepts, chosen, {"prior": prior})
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


def ids_of(pipeline: DiffusionPipeline, text: str) -> list[int]:
    """Token numbers without start and end."""
    return pipeline.tokenizer(text).input_ids[1:-1]


def by_formula(pipeline: DiffusionPipeline, chosen: dict[str, Any], of_prior: Sequence[str]) -> dict[str, Tensor]:
    """Every sum pair by pair; where words stand is found by comparing token numbers from both ends."""
    own, context, kept, whole, around = [], [], [], [], chosen["context_scale"]
    for concept in CONCEPTS:
        for template in chosen["prompts"]:
            before = ids_of(pipeline, template.split("{}")[0])
            phrase, anchor = ids_of(pipeline, concept.name), ids_of(pipeline, concept.anchor)
            first, second = (state(pipeline, template.replace("{}", words)) for words in (concept.name, concept.anchor))
            ends = 1 + len(before) + len(phrase), 1 + len(before) + len(anchor)
            own += [(first[k], second[ends[1] - 1]) for k in range(ends[0] - len(phrase), ends[0])]
            context += [(first[k], second[k]) for k in range(1 + len(before))]
            context += [(first[ends[0] + k], second[ends[1] + k]) for k in range(WINDOW - max(ends))]
    for name in chosen["retain"]:
        if "ship" in name.split():
            continue
        for template in chosen["prompts"]:
            states, start = (
                state(pipeline, template.replace("{}", name)),
                1 + len(ids_of(pipeline, template.split("{}")[0])),
            )
            kept += [states[start + k] for k in range(len(ids_of(pipeline, name)))]
            whole += [*states]
    preserved = [token for text in of_prior for token in state(pipeline, text)]
    square = sum(share * sum(c @ c for c, _ in pairs) / len(pairs) for share, pairs in ((1.0, own), (around, context)))
    square = float(square) / (1 + around)
    d, free = len(own[0][0]), np.eye(len(own[0][0]))
    if kept:
        values, vectors = np.linalg.eigh(sum(np.outer(k, k) for k in kept) / len(kept))
        free = sum(np.outer(v, v) for value, v in zip(values, vectors.T, strict=True) if value < chosen["tau"] * square)
    system, change = chosen["ridge"] * square * np.eye(d), np.zeros((d, d))
    for share, pairs in ((1.0, own), (around, context)):
        for c, a in pairs:
            system += share / len(pairs) * np.outer(c, c)
            change += share / len(pairs) * np.outer(a - c, c)
    for scale, tokens in ((chosen["retain_scale"], whole), (chosen["prior_scale"], preserved)):
        for p in tokens:
            system += scale / len(tokens) * np.outer(p, p)
    transform = np.eye(d) + change @ np.linalg.pinv(free @ system @ free, rcond=1e-13, hermitian=True)
    return {name: torch.from_numpy(weight.numpy() @ transform) for name, weight in weights_of(pipeline).items()}


@pytest.mark.parametrize(
    ("changes", "of_prior"),
    [
        (dict(), []),
        (dict(retain=RETAINED, ridge=1e-5), ["the sky here", "a photo"]),
        (dict(retain=RETAINED, tau=1e-2, context_scale=2.0, retain_scale=0.3, ridge=1e-3), []),
        (dict(context_scale=0.0, prior_scale=3.0, prompts=["{}"]), ["the sky here"]),
    ],
    ids=str,
)
def test_an_edit_is_the_formula_on_every_family(
    base_pipeline: DiffusionPipeline, changes: dict[str, Any], of_prior: list[str]
) -> None:
    pipeline = exact(base_pipeline)
    chosen = settings_of("lethe", **{"prompts": PROMPTS} | changes)
    want, before = by_formula(pipeline, chosen, of_prior), weights_of(pipeline)
    got = erased(pipeline, prior=prior_of(pipeline, of_prior) if of_prior else None, **changes)
    assert list(got) == list(before)
    for name, weight in want.items():
        assert apart(got[name], weight) < 1e-7
        assert apart(got[name], before[name]) > 1e-3


def test_words_around_a_concept_are_those_of_mace(pipeline: DiffusionPipeline) -> None:
    """With what it adds to MACE taken out of both sums, the refinement of MACE is left."""
    pipeline = exact(pipeline)
    text = Base.of_pipeline(pipeline).text
    source, cross = method.erased_moments(text, CONCEPTS, PROMPTS, 2.0)
    own, own_cross = method.erased_moments(text, CONCEPTS, PROMPTS, 0.0)
    moments = [concept_moments(text, concept.name, concept.anchor, PROMPTS) for concept in CONCEPTS]
    count = sum(moment.source.trace() for moment in moments) / (source - own).trace()
    want = refinement(moments, None, RefinementSettings("paper", 0.0, lamb=float(count)))
    eye = torch.eye(len(source), dtype=torch.float64)
    got = (cross - own_cross + eye) @ torch.linalg.inv(source - own + eye)
    projections = weights_of(pipeline)
    for name, weight in transformed(projections, want).items():
        assert apart(projections[name] @ got, weight) < 1e-9


def test_own_tokens_go_to_the_anchor_and_retained_ones_stay(pipeline: DiffusionPipeline) -> None:
    """With little else asked, each of the concept's tokens reads as the anchor's last one, and a name's as before."""
    pipeline = exact(pipeline)
    chosen = dict(prompts=["{}"], context_scale=0.0, ridge=1e-9, retain=["bird"], retain_scale=0.0, tau=1e-9)
    before, after = weights_of(pipeline), erased(pipeline, CONCEPTS[:1], **chosen)
    ship, sky, bird = (state(pipeline, words) for words in ("ship", "the sky", "bird"))
    for name, weight in after.items():
        assert apart(weight @ ship[1], before[name] @ sky[2]) < 1e-4
        assert apart(weight @ bird[1], before[name] @ bird[1]) < 1e-12
        assert apart(weight @ ship[1], before[name] @ ship[1]) > 1e-2


@pytest.mark.parametrize(("anchor", "ridge"), [("ship", 1e-4), ("sky", 1e13)], ids=["its own anchor", "ridge"])
def test_nothing_changes_where_nothing_is_asked(pipeline: DiffusionPipeline, anchor: str, ridge: float) -> None:
    before = weights_of(exact(pipeline))
    got = erased(pipeline, [Concept("ship", "object", anchor)], ridge=ridge)
    assert all(apart(got[name], weight) < 1e-8 for name, weight in before.items())


def test_counts_do_not_change_weights(pipeline: DiffusionPipeline) -> None:
    """Everything twice is the same edit."""
    exact(pipeline)
    once = erased(pipeline, retain=["bird"])
    twice = erased(pipeline, [*CONCEPTS, *CONCEPTS], retain=["bird"], prompts=[*PROMPTS, *PROMPTS])
    assert all(apart(twice[name], weight) < 1e-8 for name, weight in once.items())


def test_all_projections_change_and_nothing_else(pipeline: DiffusionPipeline) -> None:
    chosen = settings_of("lethe", prompts=PROMPTS)
    edits = [method.erase(Base.of_pipeline(pipeline), CONCEPTS, chosen, {"prior": None}) for _ in "ab"]
    assert changed_by(edits[0], pipeline) == set(weights_of(pipeline))
    assert all(torch.equal(weight, edits[1].weights[name]) for name, weight in edits[0].weights.items())


def test_the_workflow_and_python_make_the_same_edit(
    sd_folder: Path, pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("bird\nship\nperson\n")
    entry = {"kind": "lethe", "retain": {"prior": "names"}, "prompts": PROMPTS}
    made = planned(tmp_path, sd_folder, "mine", entry, priors={"names": {"file": "names.txt"}})
    edit = lethe.erase(pipeline, {"ship": "sky"}, method="lethe", retain=["bird", "person"], prompts=PROMPTS)
    assert made.weights.keys() == edit.weights.keys()
    assert all(torch.equal(made.weights[name], weight) for name, weight in edit.weights.items())
    small = planned(
        tmp_path, sd_folder, "mine", entry | {"edit_form": "factors"}, priors={"names": {"file": "names.txt"}}
    )
    assert isinstance(small, FactoredEdit)


@pytest.mark.parametrize(
    ("concepts", "changes", "told"),
    [
        ([], {}, "`concepts` must hold at least one concept; got none"),
        (CONCEPTS, {"prompts": []}, "prompts must hold at least one; {} alone is the bare word"),
        (CONCEPTS, {"prompts": ["a photo"]}, "prompts: 'a photo' must hold {} exactly once"),
        (CONCEPTS, {"prompts": ["a photo of " * 40 + "{}"]}, "use a shorter name or template"),
        (CONCEPTS, {"retain": ["bird " * 90]}, "use a shorter name or template"),
        (
            CONCEPTS,
            {"retain": [f"bird {k}" for k in range(40)], "tau": 1e-30},
            "no direction of what is retained is below tau (1e-30)",
        ),
    ],
)
def test_what_cannot_be_erased_is_refused(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=".") as refusal:
        erased(pipeline, concepts, **changes)
    assert told in str(refusal.value)
