"""Texts for a person: one line each, without characters that a terminal would act on."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any

# Joiners and tags are part of emoji and of some scripts' words; other format characters show nowhere.
_SHOWN = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}


def has_control(text: str) -> bool:
    """Whether `text` holds a control character, a line break of any kind, half a surrogate pair or a format character.

    The last are invisible: they turn the direction of writing, or make two names look the same. Joiners and tags, which
    emoji and some scripts need, do not count.
    """
    return any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _SHOWN for char in text)


def plain(text: str) -> str:
    """`text` with its control and invisible characters written as escapes: it may come from anybody."""
    return "".join(char.encode("unicode_escape").decode() if has_control(char) else char for char in text)


def sentence(error: Exception) -> str:
    """What an error says, as one plain line: the file before what the system says of it, notes in brackets behind."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = f"{', '.join(names)}: {error.strerror}" if names else error.strerror
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return plain(" ".join(f"{text.strip() or type(error).__name__}{notes}".split()))


class ConfigError(ValueError):
    """Everything wrong with a configuration or table: `ConfigError(*sentences)`; its text has one on each line."""

    def __str__(self) -> str:
        return "\n".join(self.args)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that looks most like `word`, whatever the case; None if none does."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def shown(value: Any, length: int = 80) -> str:
    """`value` as a message shows it: on one line, in printable characters, at most `length` of them."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
