"""MACE's refinement by all tokens, in the null space of names to retain: each cross-attention projection W becomes W T.

    T = I + (C - F) Z (Z^T (F + P + ridge I) Z)^-1 Z^T
    F = mean c c^T + s mean f f^T,  C = mean a c^T + s mean g f^T,  P = s_r mean h h^T + s_p mean p p^T

c are the tokens of a concept in its prompts, a the last token of its anchor in the same prompt, f and g the words
around both (MACE, arXiv 2403.06135, Eq. 1-2), h all tokens of the prompts of names to retain, p those of a prior. The
columns of Z span the directions in which the tokens k of those names have next to nothing (SPEED, arXiv 2503.07392), so
that W T k = W k but for that; without names Z is I, and T that of MACE's refinement on these tokens. MACE leaves c to a
LoRA of each concept; where names are apart as states of text, the one transform moves them as well. All sums are means,
so weights do not depend on how many concepts, names and prompts there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.prompts import aligned_positions, phrase_positions
from lethe.bases.text import TextEncoders, check_tokens
from lethe.edits.edit import Edit
from lethe.erasure.closed_form import SingularError, factorise, null_space
from lethe.erasure.moments import Moment
from lethe.erasure.tokens import WHOLE, states_at
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import check_prompts, fill
from lethe.inputs.texts import unnamed
from lethe.methods.uce import edit_of


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Solve for T in float64 and apply it to every projection, rounded once to the base's dtype.

    `settings` are those of the manifest. `reads` holds `prior`, a Moment or None.
    Raises ValueError as `solve` does.
    """
    return edit_of(base, solve(base.text, concepts, settings, reads["prior"]), concepts, settings["edit_form"])


def solve(text: TextEncoders, concepts: Sequence[Concept], settings: Mapping[str, Any], prior: Moment | None) -> Tensor:
    """T `[d, d]` float64.

    Raises ValueError without concepts, as `check_prompts` does of the prompts, when one does not fit into the window or
    the base's tokenizers count it differently, when a state is not finite, when what is retained leaves nothing free,
    and when the system is singular.
    """
    if not concepts:
        raise ValueError("`concepts` must hold at least one concept; got none")
    check_prompts(settings["prompts"])
    around = settings["context_scale"]
    source, cross = erased_moments(text, concepts, settings["prompts"], around)
    square = source.trace() / (1 + around)  # the mean squared length of a token
    eye = torch.eye(len(source)).to(source)
    system, free = source + settings["ridge"] * square * eye, eye
    if names := unnamed(settings["retain"], concepts):
        own, whole = retained_moments(text, names, settings["prompts"])
        system, free = system + settings["retain_scale"] * whole, null_space(own, settings["tau"] * square)
        if not free.numel():
            told = f"no direction of what is retained is below tau ({settings['tau']}), so nothing may change"
            raise ValueError(f"{told}; raise tau, or retain fewer names")
    if prior is not None:
        system = system + settings["prior_scale"] * prior.matrix.to(system) / prior.tokens
    try:
        moved = factorise(free.mT @ system @ free).divide((cross - source) @ free)
    except SingularError as error:
        raise ValueError(f"{error} (ridge of the method)") from None
    return eye + moved @ free.mT


def erased_moments(
    text: TextEncoders, concepts: Sequence[Concept], prompts: Sequence[str], around: float
) -> tuple[Tensor, Tensor]:
    """F and C `[d, d]`, float64. Raises ValueError as `solve` does of prompts and states."""
    texts, own, context = [], [], []
    for concept, template in itertools.product(concepts, prompts):
        texts += [fill(template, words) for words in (concept.name, concept.anchor)]
        phrase, anchor = (phrase_positions(text.tokenizer, template, words) for words in (concept.name, concept.anchor))
        own.append(([*phrase], [anchor[-1]] * len(phrase)))
        context.append(aligned_positions(text.tokenizer, template, concept.name, concept.anchor))
    check_tokens(text, list(dict.fromkeys(texts)))
    shares = [scale / sum(len(at) for at, _ in places) for scale, places in ((1.0, own), (around, context))]
    states = states_at(text, texts, [WHOLE] * len(texts))
    source, cross = 0, 0
    for phrase, anchor, *places in zip(states, states, own, context, strict=True):  # states by turns: one iterator
        for share, (at, to) in zip(shares, places, strict=True):
            c, a = phrase[[*at]], anchor[[*to]]
            source, cross = source + share * c.mT @ c, cross + share * a.mT @ c
    return source, cross


def retained_moments(text: TextEncoders, names: Sequence[str], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The means of k k^T and of h h^T `[d, d]`, float64. Raises ValueError as `solve` does of prompts and states."""
    pairs = list(itertools.product(prompts, names))
    texts = [fill(template, name) for template, name in pairs]
    check_tokens(text, texts)
    own, whole, tokens, all_tokens = 0, 0, 0, 0
    for (template, name), h in zip(pairs, states_at(text, texts, [WHOLE] * len(texts)), strict=True):
        k = h[[*phrase_positions(text.tokenizer, template, name)]]
        own, whole = own + k.mT @ k, whole + h.mT @ h
        tokens, all_tokens = tokens + len(k), all_tokens + len(h)
    return own / tokens, whole / all_tokens
