"""Tokens to search over, and prompts that begin with some: all of them are texts that a person could type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def words_of(tokenizer: CLIPTokenizer) -> list[int]:
    """The tokens that are a word by themselves: decoded and encoded again, each is itself, alone and before another.

    Special tokens and parts of words are none, since what they decode to would be read otherwise.
    """
    special = set(tokenizer.all_special_ids)
    ids = [token for token in range(len(tokenizer)) if token not in special]
    texts = tokenizer.batch_decode([[token] for token in ids])
    found = tokenizer([f"{text.strip()} a" for text in texts], add_special_tokens=False)["input_ids"]
    (behind,) = tokenizer("a", add_special_tokens=False)["input_ids"]
    return [
        token for token, text, read in zip(ids, texts, found, strict=True) if text.strip() and read == [token, behind]
    ]


def naming(tokenizer: CLIPTokenizer, words: Iterable[str]) -> set[int]:
    """The tokens of words, such as a concept's name and synonyms."""
    return {token for word in words for token in tokenizer(word, add_special_tokens=False)["input_ids"]}


def prefixed(tokenizer: CLIPTokenizer, tokens: Sequence[int], prompt: str) -> str | None:
    """A prompt with tokens before it, as text; None where it is read as other tokens, as some are only apart."""
    before = tokenizer.decode(list(tokens)).strip()
    whole = f"{before} {prompt}".strip()
    wanted = [*tokens, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    return whole if tokenizer(whole, add_special_tokens=False)["input_ids"] == wanted else None


def padded(tokenizer: CLIPTokenizer, tokens: Sequence[int]) -> list[int]:
    """Tokens between those of begin and end, padded and cut to the window as the tokenizer does itself."""
    window = tokenizer.model_max_length
    whole = [tokenizer.bos_token_id, *list(tokens)[: window - 2], tokenizer.eos_token_id]
    return whole + [tokenizer.pad_token_id] * (window - len(whole))
