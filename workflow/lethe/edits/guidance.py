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
    """The rule of a method (`kind`, a plug-in of `lethe.methods`) with its settings, JSON, and its tensors, if any.

    The method's module has `guide(pipeline, settings)`, which changes how the pipeline draws and returns what changes
    it back; with `tensors: true` in its manifest, `guide(pipeline, settings, tensors)`.
    """

    kind: str
    settings: dict[str, Any]
    record: dict = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    form = "guidance"

    @classmethod
    def parsed(cls, about: dict, tensors: dict[str, Tensor], record: dict) -> GuidanceEdit:
        """The edit of a file. Raises ValueError when its header names no method, or tensors are not as the method's."""
        kind, settings = about.get("kind"), about.get("guidance")
        if kind not in kinds("methods"):
            raise ValueError(f"the header's kind of guidance, {kind!r}, is no method of this Lethe")
        with_tensors = _has_tensors(kind)
        if not isinstance(settings, dict) or bool(tensors) != with_tensors:
            wanted = f"and {'tensors' if with_tensors else 'no tensors'}"
            raise ValueError(f"an edit by guidance must hold settings in its header, {wanted}")
        return cls(kind, settings, record=record, tensors=tensors)

    def _install(self, pipeline: DiffusionPipeline) -> Callable[[], None]:
        method = importlib.import_module(manifest("methods", self.kind).module)
        if not hasattr(method, "guide"):
            raise ValueError(f"the method {self.kind} changes weights; an edit by guidance cannot be of its kind")
        return method.guide(pipeline, self.settings, *([self.tensors] if _has_tensors(self.kind) else []))

    def _stored(self) -> tuple[dict, Mapping[str, Tensor]]:
        return {"kind": self.kind, "guidance": self.settings}, self.tensors


def _has_tensors(kind: str) -> bool:
    """Whether edits of a method hold tensors beside their settings, by its manifest."""
    return bool(manifest("methods", kind).more.get("tensors"))
