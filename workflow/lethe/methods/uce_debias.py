"""UCE for debiasing (arXiv 2308.14761): what a concept is drawn as moves towards wanted shares of attributes.

Nothing is erased. With W a projection, c the concept's tokens and a_j those of attribute j, the concept's output
becomes

    v = W c + sum_j alpha_j W a_j

in UCE's closed form, W' = W (1 + s_c sum_j alpha_j A_j M^-1) with A_j = sum a_j c^T and
M = ridge 1 + s_c sum c c^T + s_p P. Rounds of drawing and judging pictures find alpha. The authors' two codes differ:

2025. W are the base's weights in every round, and alpha_j the running sum of (wanted - seen) share of attribute j. All
concepts go on until every one is within the tolerance.
2023. W are the weights as they have become, and alpha_j = step (wanted - seen) |v| / |W a_j|, with Frobenius norms over
the tokens of a prompt, |v| as the attributes before j have made it. A concept within the tolerance is preserved
meanwhile, as are all tokens of the empty prompt.

Not followed: what a cache of the code of 2025 does to texts to preserve that are concepts too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.devices import exact
from lethe.bases.text import TextEncoders, check_tokens
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.artefacts import draw_images
from lethe.erasure.closed_form import SingularError, System, factorise
from lethe.erasure.tokens import states_at
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill
from lethe.measures.clip import Judge, image_embeddings, load, text_embeddings
from lethe.methods.uce import OF_OTHERS, paired_places, preserved
from lethe.tables.protocols import predicted_classes

log = logging.getLogger(__name__)

PROMPTS = ("{}", *OF_OTHERS[:4])  # of a concept, in the code of 2023
WITHIN = 1e-3  # shares written with three digits need not sum to 1 exactly
ROUNDING = 1e-9  # an error of just the tolerance, such as 0.8 - 0.75 beside 0.05, is not within it


@dataclass(frozen=True)
class Target:
    """A prompt of a concept: its tokens c `[n, d]`, and those of each attribute that they go to, `[n, d]`; float64."""

    concept: Tensor
    attributes: list[Tensor]


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Move what each concept is drawn as, round by round, until its attributes have the wanted shares.

    `settings` are those of the manifest, and `seed`, from which on the seeds of the pictures count; they are the same
    in every round. The edit's record has the shares seen in each round (`rounds`), those of the edit itself last.
    Raises ValueError without concepts, for attributes or shares that do not fit together, for a judge that is no CLIP,
    when a prompt does not fit into the window or has no token, when the base's tokenizers count one differently, and
    when the system is singular.
    """
    if not concepts:
        raise ValueError("uce-debias: `concepts` must hold at least one concept; got none")
    wanted = wanted_shares(settings["attributes"], settings["shares"])
    judge = load(settings["judge"], base.device)
    named = text_embeddings(judge, [fill(settings["judge"]["prompt"], word) for word in settings["attributes"]])
    targets = [targets_of(base.text, concept.name, settings) for concept in concepts]
    before = {name: exact(weight) for name, weight in base.computing(base.projections).items()}
    weights, alphas, rounds = before, np.zeros((len(concepts), len(wanted))), []
    while True:
        edit = WeightEdit({f"{name}.weight": weight.to(base.dtype) for name, weight in weights.items()})
        seen = [shares_seen(base, edit, concept.name, judge, named, settings) for concept in concepts]
        rounds.append(told(concepts, settings["attributes"], seen))
        log.info("round %d: shares are %s", len(rounds) - 1, rounds[-1])
        errors = wanted - np.array(seen)
        off = (abs(errors) > settings["tolerance"] - ROUNDING).any(axis=1)
        if not off.any() or len(rounds) > settings["rounds"]:
            break
        if settings["convention"] == 2025:
            alphas = alphas + step_of(settings) * errors
            system = system_of(base.text, sum(targets, []), [], settings)
            weights = moved(before, zip(targets, alphas, strict=True), system, settings)
        else:
            done = [concept.name for concept, still in zip(concepts, off, strict=True) if not still]
            moving = [(own, error) for own, error, still in zip(targets, errors, off, strict=True) if still]
            system = system_of(base.text, [target for own, _ in moving for target in own], done, settings)
            weights = moved(weights, moving, system, settings)
    if off.any():
        names = ", ".join(repr(concept.name) for concept, still in zip(concepts, off, strict=True) if still)
        log.warning("after %d rounds the shares of %s are not within the tolerance", settings["rounds"], names)
    edit.record["rounds"] = rounds
    return edit


def wanted_shares(attributes: Sequence[str], shares: Sequence[float] | None) -> np.ndarray:
    """The share that each attribute is to have, `[k]`; equal ones for None.

    Raises ValueError for fewer than two attributes, one named twice, and shares that are not one for each or do not sum
    to 1.
    """
    if len(set(attributes)) != len(attributes) or len(attributes) < 2:
        raise ValueError(f"uce-debias: attributes must be at least two, each named once; got {', '.join(attributes)}")
    if shares is None:
        return np.full(len(attributes), 1 / len(attributes))
    if len(shares) != len(attributes) or abs(sum(shares) - 1) > WITHIN:
        raise ValueError(
            f"uce-debias: shares must be one for each of the {len(attributes)} attributes and sum to 1; got {shares}"
        )
    return np.array(shares)


def step_of(settings: Mapping[str, Any]) -> float:
    """How much of an error a round adds; as published 1 (2025) or 0.1 (2023)."""
    published = {2025: 1.0, 2023: 0.1}[settings["convention"]]
    return published if settings["step"] is None else settings["step"]


def prompts_of(concept: str, convention: int) -> list[str]:
    """The prompts of a concept whose tokens move: its name, and under 2023 four more."""
    return [concept] if convention == 2025 else [fill(template, concept) for template in PROMPTS]


def targets_of(text: TextEncoders, concept: str, settings: Mapping[str, Any]) -> list[Target]:
    """The tokens of each of a concept's prompts, with those of the attributes. Raises ValueError as `erase` does."""
    found, convention = [], settings["convention"]
    for prompt in prompts_of(concept, convention):
        texts = [prompt, *settings["attributes"]]
        check_tokens(text, texts)
        first, *others = states_at(text, texts, paired_places(text.tokenizer, texts, convention))
        found.append(Target(first, others))
    return found


def system_of(text: TextEncoders, moving: Sequence[Target], done: Sequence[str], settings: Mapping[str, Any]) -> System:
    """M of the tokens that move, with what is preserved: the settings' texts, and concepts that are `done`.

    Raises ValueError when it is singular.
    """
    convention = settings["convention"]
    texts = [*settings["preserve"], *(prompt for name in done for prompt in prompts_of(name, convention))]
    kept, scale = preserved(text, texts, None, convention), settings["preserve_scale"]
    if scale is None:
        scale = 1.0 if convention == 2025 else 0.1
    source = settings["concept_scale"] * sum(target.concept.mT @ target.concept for target in moving)
    matrix = source + settings["ridge"] * torch.eye(len(source)).to(source)
    try:
        return factorise(matrix if kept is None else matrix + scale * kept)
    except SingularError as error:
        raise ValueError(f"{error} (ridge or preserve_scale of the method)") from None


def moved(
    weights: Mapping[str, Tensor],
    moving: Sequence[tuple[Sequence[Target], np.ndarray]],
    system: System,
    settings: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Every projection W `[out, d]`, float64, moved.

    `moving` are concepts, each by its targets and a number for each attribute: alpha (2025) or wanted - seen (2023).
    """
    pulls = [
        (target, numbers, [system.divide(attribute.mT @ target.concept) for attribute in target.attributes])
        for targets, numbers in moving
        for target in targets
    ]
    found = {}
    for name, weight in weights.items():
        total = 0
        for target, numbers, each in pulls:
            alphas = numbers if settings["convention"] == 2025 else lengths(weight, target, step_of(settings) * numbers)
            total = total + sum(float(alpha) * pull for alpha, pull in zip(alphas, each, strict=True))
        found[name] = weight + settings["concept_scale"] * weight @ total
    return found


def lengths(weight: Tensor, target: Target, shares: np.ndarray) -> list[float]:
    """alpha of 2023 for a projection: each share of |v|, measured in |W a_j|, where v has grown by those before it."""
    output, alphas = target.concept @ weight.mT, []
    for attribute, share in zip(target.attributes, shares, strict=True):
        towards = attribute @ weight.mT
        alphas.append(float(share * output.norm() / towards.norm()))
        output = output + alphas[-1] * towards
    return alphas


def shares_seen(
    base: Base, edit: Edit, concept: str, judge: Judge, named: np.ndarray, settings: Mapping[str, Any]
) -> np.ndarray:
    """The share of each attribute, `[k]`, in what the edited base draws of a concept.

    A picture shows the attribute whose text, of embeddings `named` `[k, e]`, is most like it.
    """
    edit.install(base.pipeline)
    try:
        _, drawn = draw_images(base.pipeline, concept, settings["drawing"], seed=settings["seed"])
    finally:
        edit.remove(base.pipeline)
    names = [f"picture {number} of {concept!r}" for number in range(len(drawn))]
    found = predicted_classes(image_embeddings(judge, iter(drawn), names), named)
    return np.bincount(found, minlength=len(named)) / len(found)


def told(concepts: Sequence[Concept], attributes: Sequence[str], seen: Sequence[np.ndarray]) -> dict[str, dict]:
    """Shares by concept and attribute, as a record holds them."""
    return {
        concept.name: {word: round(float(share), 6) for word, share in zip(attributes, shares, strict=True)}
        for concept, shares in zip(concepts, seen, strict=True)
    }
