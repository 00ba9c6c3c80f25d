"""Texts for a person: one line each, without characters that a terminal would act on."""

from __future__ import annotations

import unicodedata


def has_control(text: str) -> bool:
    """Whether `text` holds a control character, a line break of any kind or half a surrogate pair."""
    return any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def plain(text: str) -> str:
    """`text` with its control characters written as escapes: it may come from anybody."""
    return "".join(char.encode("unicode_escape").decode() if has_control(char) else char for char in text)


def sentence(error: Exception) -> str:
    """What an error says, as one plain line: the file before what the system says of it, notes in brackets behind."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = f"{', '.join(names)}: {error.strerror}" if names else error.strerror
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return plain(" ".join(f"{text.strip() or type(error).__name__}{notes}".split()))
