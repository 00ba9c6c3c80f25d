"""Erase concepts from text-to-image diffusion models, one or a thousand at a time, and measure what that cost.

    import lethe
    edit = lethe.erase(pipeline, {"cat": "sky"})
    edit.install(pipeline)

docs/python.md shows more. Names load when they are asked for, so that `import lethe` takes no torch along.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_FROM = {
    **dict.fromkeys(("load", "erase", "sample", "measure", "recognised"), "lethe.api"),
    "Concept": "lethe.inputs.concepts",
    "Edit": "lethe.edits.edit",
    "export": "lethe.edits.export",
    "publish": "lethe.edits.publish",
    "read_texts": "lethe.files.tables",
}
__all__ = ["Concept", "Edit", "erase", "export", "load", "measure", "publish", "read_texts", "recognised", "sample"]


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module 'lethe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
