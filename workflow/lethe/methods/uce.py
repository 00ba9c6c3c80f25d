"""UCE, unified concept editing (arXiv 2308.14761, Eq. 7): every cross-attention projection W becomes W T.

T = (ridge I + s_e C + s_p P) (ridge I + s_e F + s_p P)^-1 with F = sum c c^T over tokens of the concepts, C = sum g c^T
with the tokens of their guides, and P = sum p p^T over what to preserve: the refinement of MACE on other tokens. Which
tokens differs between the authors' codes of 2023, behind the paper's numbers, and of 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.devices import exact_device
from lethe.bases.text import TextEncoders
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank, apply
from lethe.edits.weights import WeightEdit
from lethe.erasure.closed_form import SingularError, refine
from lethe.erasure.moments import Moment, second_moment
from lethe.erasure.tokens import WHOLE, last_states, last_subject_token, last_token, pair_moments, states_at
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CONVENTIONS = (2023, 2025)
OF_STYLES = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
OF_OTHERS = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")


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

    Raises ValueError for an unknown convention, without concepts, when a prompt does not fit into the window or has no
    token to erase, when the base's tokenizers count one differently, when a state is not finite, and when the system is
    singular.
    """
    convention = settings["convention"]
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(map(str, CONVENTIONS))}; got {convention!r}")
    pairs = all_pairs(concepts, settings)
    places = [paired_places(text.tokenizer, pair, convention) for pair in pairs]
    source, cross = pair_moments(text, pairs, places)
    kept = preserved(text, settings["preserve"], prior, convention)
    scale = settings["preserve_scale"]
    if scale is None:
        scale = published_scale(text, settings["preserve"], prior, convention)
    weight = settings["erase_scale"]
    try:
        return refine(weight * source, weight * cross, kept, scale=scale, ridge=settings["ridge"])
    except SingularError as error:
        raise ValueError(f"{error} (ridge or preserve_scale of the method)") from None


def edit_of(base: Base, transform: Tensor, concepts: Sequence[Concept], form: str) -> Edit:
    """Every projection W as W T, in one of the forms `weights` and `factors`."""
    if form == "factors":
        nothing = {name: LowRank.zero(projection) for name, projection in base.projections.items()}
        return FactoredEdit.stacked(transform, [(concept.name, nothing) for concept in concepts])
    projections = base.computing(base.projections)
    return WeightEdit({f"{name}.weight": apply(projection, transform, []) for name, projection in projections.items()})


def all_pairs(concepts: Sequence[Concept], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`prompt_pairs` of every concept. Raises ValueError when there is none."""
    if not concepts:
        raise ValueError("`concepts` must hold at least one concept; got none")
    return [pair for concept in concepts for pair in prompt_pairs(concept, settings)]


def prompt_pairs(concept: Concept, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The prompts that erase a concept, each with the prompt of its guide.

    Expanded prompts have the bare guide in the code of 2023, and the guide in the same words in that of 2025.
    """
    guide = concept.anchor if settings["guide"] is None else settings["guide"]
    further = OF_STYLES if concept.kind == "style" else OF_OTHERS
    templates = ["{}", *(further if settings["expand"] else ())]
    return [
        (fill(template, concept.name), fill(template if settings["convention"] == 2025 else "{}", guide))
        for template in templates
    ]


def paired_places(tokenizer: CLIPTokenizer, prompts: Sequence[str], convention: int) -> tuple[slice, ...]:
    """The places of the tokens c of the first prompt and of those of each other that they go to, equally many of each.

    2025: the last token of each. 2023: the last token, then end-of-text and padding one by one, until the longest
    prompt reaches the end of the window.
    Raises ValueError as `last_subject_token` does.
    """
    lasts = [last_subject_token(tokenizer, prompts[0]), *(last_token(tokenizer, to) for to in prompts[1:])]
    length = 1 if convention == 2025 else tokenizer.model_max_length - max(lasts)
    return tuple(slice(last, last + length) for last in lasts)


def preserved(text: TextEncoders, texts: Sequence[str], prior: Moment | None, convention: int) -> Tensor | None:
    """P `[d, d]` float64: sum p p^T over the tokens of `texts` to preserve, and the prior's; None when there are none.

    2023: every token, padding included, of the texts and of the empty prompt. 2025: the last token of each text.
    Raises ValueError as `solve` does.
    """
    total = None if prior is None else prior.matrix.to(exact_device(text.encoders[0].device))
    if convention == 2025:
        tokens = last_states(text, texts).split(1)
    else:
        texts = ["", *texts]
        tokens = states_at(text, texts, [WHOLE] * len(texts))
    if texts:
        own = second_moment(tokens).matrix
        total = own if total is None else own + total
    return total


def published_scale(text: TextEncoders, texts: Sequence[str], prior: Moment | None, convention: int) -> float:
    """The authors' default weight of what to preserve: 1 (2025), or 1 / number of texts, at least 0.1 (2023).

    The empty prompt is one of these texts, and so is each text of the prior.
    """
    if convention == 2025:
        return 1.0
    further = 0 if prior is None else prior.tokens / text.tokenizer.model_max_length
    return max(0.1, 1 / (1 + len(texts) + further))
