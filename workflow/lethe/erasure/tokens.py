"""The states of single tokens, which closed forms send elsewhere or leave where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lethe.bases.devices import exact
from lethe.bases.text import TextEncoders, check_tokens, encode_prompts

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

WHOLE = slice(None)  # every place of the window, padding included


def last_token(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """The place of a prompt's last token; 0, that of start-of-text, for the empty prompt.

    Raises ValueError, with the token count, when the prompt does not fit into the window.
    """
    tokens, window = len(tokenizer(prompt, verbose=False)["input_ids"]), tokenizer.model_max_length
    if tokens > window:
        raise ValueError(f"{prompt!r} needs {tokens} tokens; the text encoder reads {window}: use a shorter text")
    return tokens - 2


def last_subject_token(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """The place of the last token of a prompt to erase.

    Raises ValueError as `last_token` does, and when the prompt has no token.
    """
    last = last_token(tokenizer, prompt)
    if last == 0:
        raise ValueError(f"{prompt!r} has no token to erase")
    return last


def states_at(text: TextEncoders, prompts: Sequence[str], places: Iterable[slice]) -> Iterator[Tensor]:
    """The states `[n, d]`, float64, of each prompt at its places."""
    states = (state for batch in encode_prompts(text, prompts) for state in batch)
    for state, place in zip(states, places, strict=True):
        yield exact(state[place])


def last_states(text: TextEncoders, prompts: Sequence[str]) -> Tensor:
    """The states `[n, d]`, float64, of the last tokens of `prompts`; `[0, 0]` of none.

    Raises ValueError as `last_token` does, and when the base's tokenizers count a prompt differently.
    """
    check_tokens(text, prompts)
    lasts = [last_token(text.tokenizer, prompt) for prompt in prompts]
    states = states_at(text, prompts, (slice(last, last + 1) for last in lasts))
    return torch.cat(list(states)) if prompts else torch.empty(0, 0, dtype=torch.float64)


def pair_moments(
    text: TextEncoders, pairs: Sequence[tuple[str, str]], places: Sequence[tuple[slice, slice]]
) -> tuple[Tensor, Tensor]:
    """F = sum c c^T and C = sum g c^T `[d, d]`, float64, over the tokens c of prompts and g of the prompts of guides.

    `places` are those of each (prompt, guide), equally many of both, paired in their order.
    Raises ValueError when the base's tokenizers count a prompt differently, or a state is not finite.
    """
    prompts = [prompt for pair in pairs for prompt in pair]
    check_tokens(text, list(dict.fromkeys(prompts)))
    rows = states_at(text, prompts, (place for pair in places for place in pair))
    source, cross = 0, 0
    for c, g in zip(rows, rows, strict=True):  # one iterator: by turns
        source, cross = source + c.mT @ c, cross + g.mT @ c
    return source, cross
