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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

OWN, CONTEXT = "own", "context"  # tokens of a concept, and of the words around it


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
    check_tokens(
        text, list(dict.fromkeys(fill(t, words) for c in concepts for t in prompts for words in (c.name, c.anchor)))
    )
    sums = {kind: [0, 0, 0] for kind in (OWN, CONTEXT)}  # of c c^T, of a c^T, and how many
    names = [concept.name for concept in concepts]
    anchors = list(dict.fromkeys(concept.anchor for concept in concepts))  # often one for all: encoded once
    for template in prompts:
        towards = dict(zip(anchors, whole_states(text, template, anchors), strict=True))
        for concept, phrase in zip(concepts, whole_states(text, template, names), strict=True):
            for kind, (at, to) in places_of(text.tokenizer, template, concept).items():
                c, a = phrase[at], towards[concept.anchor][to]
                source, cross, count = sums[kind]
                sums[kind] = [source + c.mT @ c, cross + a.mT @ c, count + len(at)]
    scales = {OWN: 1.0, CONTEXT: around}
    source, cross = (sum(scales[kind] * of[part] / of[2] for kind, of in sums.items()) for part in (0, 1))
    return source, cross


def places_of(tokenizer: CLIPTokenizer, template: str, concept: Concept) -> dict[str, tuple[list[int], list[int]]]:
    """Where c and a, f and g stand in the prompts of a concept and of its anchor, as pairs of lists of one length."""
    phrase, anchor = (phrase_positions(tokenizer, template, words) for words in (concept.name, concept.anchor))
    around = aligned_positions(tokenizer, template, concept.name, concept.anchor)
    return {OWN: ([*phrase], [anchor[-1]] * len(phrase)), CONTEXT: around}


def whole_states(text: TextEncoders, template: str, words: Sequence[str]) -> Iterator[Tensor]:
    """The states `[window, d]`, float64, of each word in a prompt."""
    return states_at(text, [fill(template, word) for word in words], [WHOLE] * len(words))


def retained_moments(text: TextEncoders, names: Sequence[str], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The means of k k^T and of h h^T `[d, d]`, float64. Raises ValueError as `solve` does of prompts and states."""
    check_tokens(text, [fill(template, name) for template in prompts for name in names])
    own, whole, tokens, all_tokens = 0, 0, 0, 0
    for template in prompts:
        for name, h in zip(names, whole_states(text, template, names), strict=True):
            k = h[[*phrase_positions(text.tokenizer, template, name)]]
            own, whole = own + k.mT @ k, whole + h.mT @ h
            tokens, all_tokens = tokens + len(k), all_tokens + len(h)
    return own / tokens, whole / all_tokens
