"""Some of the words of a table or list, by their place in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def chosen_words(words: Sequence[T], between: Sequence[int] | None, source: object) -> Sequence[T]:
    """The words from the first to the last that `between` names, counted from 1; all of them for None.

    Raises ValueError, naming `source`, when there are not so many.
    """
    if between is None:
        return words
    first, last = between
    if last > len(words):
        raise ValueError(f"{source}: words must be at most {len(words)}, which is how many there are; got {last}")
    return words[first - 1 : last]
