"""Tokens to search over, and prompts that begin with some: all of them are texts that a person could type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lethe.inputs.templates import fill

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from lethe.bases.text import TextEncoders


def words_of(text: TextEncoders) -> list[int]:
    """The tokens that are a word by themselves: decoded and encoded again, each is itself, alone and before another.

    Special tokens and parts of words are none, since what they decode to would be read otherwise; nor is what nobody
    can type, such as NUL, or what one of a base's tokenizers reads otherwise than the other, such as the '!' with which
    SDXL's second one pads.
    """
    special = {token for tokenizer in text.tokenizers for token in tokenizer.all_special_ids}
    ids = [token for token in range(len(text.tokenizer)) if token not in special]
    texts = [decoded.strip() for decoded in text.tokenizer.batch_decode([[token] for token in ids])]
    for tokenizer in text.tokenizers:
        (behind,) = tokenizer("a", add_special_tokens=False)["input_ids"]
        read = tokenizer([f"{one} a" for one in texts], add_special_tokens=False)["input_ids"]
        found = zip(ids, texts, read, strict=True)
        kept = [one.isprintable() and tokens == [token, behind] for token, one, tokens in found]
        ids, texts = ([value for value, keep in zip(values, kept, strict=True) if keep] for values in (ids, texts))
    return ids


def naming(tokenizer: CLIPTokenizer, words: Iterable[str]) -> set[int]:
    """The tokens of words, such as a concept's name and synonyms."""
    return {token for word in words for token in tokenizer(word, add_special_tokens=False)["input_ids"]}


def prefixed(text: TextEncoders, tokens: Sequence[int], prompt: str) -> str | None:
    """A prompt with tokens before it, as text; None where it is read as other tokens, as some are only apart."""
    whole = f"{text.tokenizer.decode(list(tokens)).strip()} {prompt}".strip()
    for tokenizer in text.tokenizers:
        wanted = [*tokens, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        if tokenizer(whole, add_special_tokens=False)["input_ids"] != wanted:
            return None
    return whole


def padded(tokenizer: CLIPTokenizer, tokens: Sequence[int]) -> list[int]:
    """Tokens between those of begin and end, padded and cut to the window as the tokenizer does itself."""
    window = tokenizer.model_max_length
    whole = [tokenizer.bos_token_id, *list(tokens)[: window - 2], tokenizer.eos_token_id]
    return whole + [tokenizer.pad_token_id] * (window - len(whole))


def unused(text: TextEncoders, templates: Sequence[str]) -> tuple[int, str]:
    """A token that is a word and stands in no template, and that word: the last one of the vocabulary."""
    held = {token for prompt in templates for token in text.tokenizer(fill(prompt, ""))["input_ids"]}
    token = next(token for token in reversed(words_of(text)) if token not in held)
    return token, text.tokenizer.decode([token]).strip()
