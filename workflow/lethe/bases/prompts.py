"""Prompt templates, and where a phrase's tokens stand in a prompt."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from lethe.inputs.templates import fill

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def phrase_positions(tokenizer: CLIPTokenizer, template: str, phrase: str) -> range:
    """Token positions of `phrase` in the prompt that `template` makes of it, counting the start-of-text token.

    Raises ValueError, with the token count, when the phrase does not fit into the tokenizer's window.
    """
    return _located(tokenizer, template, phrase)[0]


def aligned_positions(tokenizer: CLIPTokenizer, template: str, phrase: str, anchor: str) -> tuple[list[int], list[int]]:
    """Positions of the same words in the prompt with the phrase and in the prompt with its anchor.

    The prefix before the phrase and everything after it (end-of-text and padding included) up to the window; the
    phrase's and the anchor's own tokens are left out, and so is punctuation beside them that is tokenised otherwise in
    the one prompt than in the other. Both lists have equal length. Source: MACE, Sec. 3.2 (f and g).
    """
    window = tokenizer.model_max_length
    (source, first), (target, second) = (_located(tokenizer, template, words) for words in (phrase, anchor))
    before = _common(first[: source.start], second[: target.start])
    after = _common(first[source.stop :][::-1], second[target.stop :][::-1])
    tails = [len(first) - after, len(second) - after]
    length = window - max(tails)
    if len(first) != len(second) and max(len(first), len(second)) > window:
        length -= 1  # the longer prompt is cut: its last token is end-of-text, the other prompt's is still a word
    return tuple([*range(before), *range(tail, tail + length)] for tail in tails)


def end_positions(tokenizer: CLIPTokenizer, prompt: str) -> range:
    """Positions of the first end-of-text token of a prompt and of all padding after it."""
    used = len(tokenizer(prompt, truncation=True)["input_ids"])
    return range(used - 1, tokenizer.model_max_length)


def _located(tokenizer: CLIPTokenizer, template: str, phrase: str) -> tuple[range, list[int]]:
    """The positions of `phrase_positions`, and the tokens of the whole prompt, however long."""
    first = len(template[: template.index("{}")])
    encoded = tokenizer(fill(template, phrase), return_offsets_mapping=True, verbose=False)
    inside = [
        position
        for position, (start, end) in enumerate(encoded["offset_mapping"])
        if end > first and start < first + len(phrase) and end > start
    ]
    window = tokenizer.model_max_length
    if not inside:
        raise ValueError(f"phrase_positions: {phrase!r} has no tokens in {template!r}")
    if inside[-1] >= window - 1:
        raise ValueError(
            f"phrase_positions: {fill(template, phrase)!r} needs {len(encoded['input_ids'])} tokens, the phrase "
            f"{len(inside)} of them; the text encoder reads {window}: use a shorter name or template"
        )
    return range(inside[0], inside[-1] + 1), encoded["input_ids"]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two lists have in common from their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
