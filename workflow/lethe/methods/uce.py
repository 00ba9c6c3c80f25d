"""UCE, unified concept editing (arXiv 2308.14761, Eq. 7): every cross-attention projection W becomes W T.

T = (ridge I + s_e C + s_p P) (ridge I + s_e F + s_p P)^-1 with F = sum c c^T over tokens of the concepts, C = sum g c^T
with the tokens of their guides, and P = sum p p^T over what to preserve: the refinement of MACE on other tokens. Which
tokens differs between the authors' codes of 2023, behind the paper's numbers, and of 2025.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.text import TextEncoders, check_tokens, encode_prompts
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank, apply
from lethe.edits.weights import WeightEdit
from lethe.erasure.closed_form import SingularError, refine
from lethe.erasure.moments import Moment, second_moment
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
    Raises ValueError for an unknown convention, without concepts, when a prompt does not fit into the window or has no
    token to erase, when the base's tokenizers count one differently, when a state is not finite, and when the system is
    singular.
    """
    convention = settings["convention"]
    if convention not in CONVENTIONS:
        raise ValueError(f"uce: convention must be one of {', '.join(map(str, CONVENTIONS))}; got {convention!r}")
    if not concepts:
        raise ValueError("uce: `concepts` must hold at least one concept; got none")
    pairs = [pair for concept in concepts for pair in prompt_pairs(concept, settings)]
    source, cross = pair_moments(base.text, pairs, convention)
    kept = preserved(base.text, settings["preserve"], reads["prior"], convention)
    scale = settings["preserve_scale"]
    if scale is None:
        scale = published_scale(base.text, settings["preserve"], reads["prior"], convention)
    weight = settings["erase_scale"]
    try:
        transform = refine(weight * source, weight * cross, kept, scale=scale, ridge=settings["ridge"])
    except SingularError as error:
        raise ValueError(f"{error} (ridge or preserve_scale of the method)") from None
    if settings["edit_form"] == "factors":
        nothing = {name: LowRank.zero(projection) for name, projection in base.projections.items()}
        return FactoredEdit.stacked(transform, [(concept.name, nothing) for concept in concepts])
    projections = base.computing(base.projections)
    return WeightEdit({f"{name}.weight": apply(projection, transform, []) for name, projection in projections.items()})


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


def last_token(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """The place of a prompt's last token; 0, that of start-of-text, for the empty prompt.

    Raises ValueError, with the token count, when the prompt does not fit into the window.
    """
    tokens, window = len(tokenizer(prompt, verbose=False)["input_ids"]), tokenizer.model_max_length
    if tokens > window:
        raise ValueError(f"uce: {prompt!r} needs {tokens} tokens; the text encoder reads {window}: use a shorter text")
    return tokens - 2


def paired_places(tokenizer: CLIPTokenizer, prompt: str, guide: str, convention: int) -> tuple[slice, slice]:
    """The places of the tokens c of a prompt and of those of its guide g that they go to, equally many.

    2025: the last token of each. 2023: the last token, then end-of-text and padding one by one, until the longer prompt
    reaches the end of the window.
    Raises ValueError as `last_token` does, and when the prompt has no token.
    """
    last, to = last_token(tokenizer, prompt), last_token(tokenizer, guide)
    if last == 0:
        raise ValueError(f"uce: {prompt!r} has no token to erase")
    length = 1 if convention == 2025 else tokenizer.model_max_length - max(last, to)
    return slice(last, last + length), slice(to, to + length)


def pair_moments(text: TextEncoders, pairs: Sequence[tuple[str, str]], convention: int) -> tuple[Tensor, Tensor]:
    """F = sum c c^T and C = sum g c^T `[d, d]`, float64, over the paired tokens of (prompt, guide).

    Raises ValueError as `erase` does.
    """
    prompts = [prompt for pair in pairs for prompt in pair]
    check_tokens(text, list(dict.fromkeys(prompts)))
    places = [place for pair in pairs for place in paired_places(text.tokenizer, *pair, convention)]
    rows = states_at(text, prompts, places)
    source, cross = 0, 0
    for c, g in zip(rows, rows, strict=True):  # one iterator: by turns
        source, cross = source + c.mT @ c, cross + g.mT @ c
    return source, cross


def preserved(text: TextEncoders, texts: Sequence[str], prior: Moment | None, convention: int) -> Tensor | None:
    """P `[d, d]` float64: sum p p^T over the tokens of `texts` to preserve, and the prior's; None when there are none.

    2023: every token, padding included, of the texts and of the empty prompt. 2025: the last token of each text.
    Raises ValueError as `erase` does.
    """
    total = None if prior is None else prior.matrix.to(text.encoders[0].device)
    if convention == 2025:
        check_tokens(text, texts)
        lasts = [last_token(text.tokenizer, one) for one in texts]
        places = [slice(last, last + 1) for last in lasts]
    else:
        texts = ["", *texts]
        places = [slice(None)] * len(texts)
    if texts:
        own = second_moment(states_at(text, texts, places)).matrix
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


def states_at(text: TextEncoders, prompts: Sequence[str], places: Iterable[slice]) -> Iterator[Tensor]:
    """The states `[n, d]`, float64, of each prompt at its places."""
    states = (state for batch in encode_prompts(text, prompts) for state in batch)
    for state, place in zip(states, places, strict=True):
        yield state[place].to(torch.float64)
