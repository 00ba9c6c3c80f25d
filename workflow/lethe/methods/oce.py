"""OCE, orthogonal concept erasure (arXiv 2605.28902): each projection W becomes Q W with Q orthogonal.

Q = U V^T with U S V^T = M is the orthogonal matrix that maximises tr(Q^T M), where

    M = -s_e E E^T (I - G G^T) + s_p sum (W p)(W p)^T + s_g W C W^T + ridge W W^T.

E and G are orthonormal bases of what W makes of the last tokens of the concepts and of their guides, p the last tokens
of texts to preserve, C = mean h h^T over the prior. Two things differ from the published code. Its bases come from a QR
decomposition of the guides repeated until there are as many as concepts: all but the distinct ones give directions of
rounding, into which nothing is erased. Here they have the rank of their columns. It also turns a reflection into a
rotation, by a column that has no part in the optimum; here a reflection, which keeps lengths and angles too, stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.devices import exact
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.layers import basis, chosen_projections
from lethe.erasure.moments import Moment
from lethe.erasure.tokens import last_states, last_subject_token
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import check_prompts, fill

SAME = 1e-5  # of the largest singular value: states of one text differ by less, those of two by more


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Solve for each projection in float64, rounded once to the base's dtype.

    `settings` are those of the manifest. `reads` holds `prior`, a Moment or None.
    Raises ValueError without concepts, for a prompt without {}, when a prompt does not fit into the window or has no
    token to erase, when the base's tokenizers count one differently, and when a state is not finite.
    """
    if not concepts:
        raise ValueError("`concepts` must hold at least one concept; got none")
    text, layers = base.text, chosen_projections(base.projections, settings["projections"])
    erased = prompts_of([concept.name for concept in concepts], settings["prompts"])
    guides = prompts_of(settings["guides"] or [concept.anchor for concept in concepts], settings["prompts"])
    for prompt in erased:
        last_subject_token(text.tokenizer, prompt)
    away, to = last_states(text, erased), last_states(text, guides)
    kept = held(len(away.mT), last_states(text, settings["preserve"]), reads["prior"], settings).to(away)
    turned = {}
    for name, weight in base.computing(layers).items():
        found = turn(exact(weight), away, to, kept, settings["erase_scale"])
        turned[f"{name}.weight"] = found.to(weight)
    return WeightEdit(turned)


def prompts_of(words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each word in each template, without repetitions. Raises ValueError as `check_prompts` does."""
    check_prompts(templates)
    return list(dict.fromkeys(fill(template, word) for word in words for template in templates))


def held(width: int, tokens: Tensor, prior: Moment | None, settings: Mapping[str, Any]) -> Tensor:
    """s_p sum p p^T + s_g C + ridge I `[d, d]`, float64, over `tokens` p `[n, d]`, of which there may be none."""
    total = settings["ridge"] * torch.eye(width, dtype=torch.float64)
    if len(tokens):
        total = total + settings["preserve_scale"] * (tokens.mT @ tokens).to(total)
    if prior is not None:
        total = total + settings["prior_scale"] * prior.matrix.to(total) / prior.tokens
    return total


def turn(weight: Tensor, away: Tensor, to: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Q W `[out, d]` for one projection W, all in float64.

    away, to: last tokens `[n, d]` of concepts and of guides.  kept: `held`.  scale: s_e.
    Solved within the span of W's columns, which M does not leave: of a layer with more outputs than a text state has
    numbers, Q is undetermined outside, and does nothing there.
    """
    span = torch.linalg.qr(weight).Q
    inside = span.mT @ weight
    erased, guided = (basis(inside @ tokens.mT, relative=SAME) for tokens in (away, to))
    objective = inside @ kept @ inside.mT - scale * erased @ (erased.mT - erased.mT @ guided @ guided.mT)
    left, _, right = torch.linalg.svd(objective)
    return weight + span @ (left @ (right @ inside) - inside)
