"""What went wrong, in one sentence with a mend, whoever raised it: Lethe, a library or the machine."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from lethe.messages import plain, sentence

MEMORY = re.compile(r"out of memory|can't allocate memory|Unable to allocate|cannot allocate memory", re.IGNORECASE)
UNSUPPORTED = re.compile(r"not implemented for '?(?:Half|BFloat16)|expected scalar type|have the same dtype")


def explained(error: Exception, *, less: str | None = None, folder: Path | None = None) -> str:
    """What to say of an error, as one plain line.

    ValueError, OSError and what safetensors raises say it themselves. Of any other error the sentence names the library
    that raised it, its words, and where the traceback is: in a new file in `folder`, if one is given. `less` is the
    setting that takes less memory when it is lower.
    """
    if isinstance(error, ValueError | OSError) or type(error).__name__ == "SafetensorError":  # without its import
        return sentence(error)
    words = plain(" ".join(str(error).split()))
    parts = re.split(r"(?<=[.!?]) (?=[A-Z])", words)
    first = parts[0] or type(error).__name__
    if isinstance(error, MemoryError) or MEMORY.search(words):
        mend = f"lower {less}" if less else "run it where there is more"
        about = next((part for part in parts if MEMORY.search(part)), first)
        return f"out of memory ({about.rstrip('.')}); {mend}"
    if UNSUPPORTED.search(words):
        return f"this machine cannot compute that in the precision that was set ({first}); set precision: float32"
    where = _library_of(error)
    kept = _keep(error, folder)
    return f"{where} failed with {type(error).__name__}: {first}{f' (the traceback is in {kept})' if kept else ''}"


def _library_of(error: Exception) -> str:
    """The library whose code raised an error, by its files; Lethe if it is its own."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        if "site-packages" in parts:
            return parts[parts.index("site-packages") + 1].removesuffix(".py")
        if "lethe" in parts:
            return "Lethe"
    return "Python"


def _keep(error: Exception, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir())) + 1
        path = folder / f"{number:04d}.txt"
        with path.open("x", encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
        return path
    except OSError:
        return None
