"""Edits that change no weight: a rule by which a method guides inference, installed into the pipeline that draws."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lethe.edits.edit import Edit
from lethe.plugins import kinds, manifest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class GuidanceEdit(Edit):
    """The rule of a method (`kind`, a plug-in of `lethe.methods`) with its settings, JSON.

    The method's module has `guide(pipeline, settings)`, which changes how the pipeline draws and returns what changes
    it back.
    """

    kind: str
    settings: dict[str, Any]
    record: dict = field(default_factory=dict)
    form = "guidance"

    @classmethod
    def parsed(cls, about: dict, tensors: dict[str, Tensor], record: dict) -> GuidanceEdit:
        """The edit of a file. Raises ValueError when its header names no method, or it holds tensors."""
        kind, settings = about.get("kind"), about.get("guidance")
        if kind not in kinds("methods"):
            raise ValueError(f"the header's kind of guidance, {kind!r}, is no method of this Lethe")
        if not isinstance(settings, dict) or tensors:
            raise ValueError("an edit by guidance must hold settings in its header, and no tensors")
        return cls(kind, settings, record=record)

    def _install(self, pipeline: DiffusionPipeline) -> Callable[[], None]:
        method = importlib.import_module(manifest("methods", self.kind).module)
        if not hasattr(method, "guide"):
            raise ValueError(f"the method {self.kind} changes weights; an edit by guidance cannot be of its kind")
        return method.guide(pipeline, self.settings)

    def _stored(self) -> tuple[dict, Mapping[str, Tensor]]:
        return {"kind": self.kind, "guidance": self.settings}, {}
