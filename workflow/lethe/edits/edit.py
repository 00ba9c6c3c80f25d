"""Edits: what a method makes of a base, kept apart from it; installed into a pipeline, taken out, saved and loaded.

Each form is a module: `weights` (new values of parameters), `factors` (the same in a smaller file), `guidance` (a rule
of inference). All are one safetensors file with a record of what made them in its header.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lethe.files.tensors import read_tensors, write_tensors
from lethe.finite import mend_of, require_finite

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FORMAT = 1  # of the file; a reader refuses a number it does not know
_INSTALLED = "_lethe_edit"  # the attribute of a pipeline that holds its edit and what takes it out


class Edit(ABC):
    """What makes a pipeline draw as if some concepts did not exist. `record` says what made it, and for which base."""

    form: ClassVar[str]
    record: dict

    def install(self, pipeline: DiffusionPipeline, *, base_fingerprint: str | None = None) -> None:
        """Let an unedited pipeline draw edited, until `remove`.

        Raises ValueError, leaving it as it was, when another edit is installed, when this one was made for a base with
        another fingerprint than the one given, does not fit or overflows in the pipeline's dtype.
        """
        if _INSTALLED in vars(pipeline):
            raise ValueError("another edit is installed in this pipeline; remove it first")
        if base_fingerprint is not None and self.record["base"]["fingerprint"] != base_fingerprint:
            raise ValueError(
                f"the edit was made for base {self.record['base']['name']} "
                f"({self.record['base']['fingerprint'][:12]}), this one is {base_fingerprint[:12]}; make the edit "
                "again for this base"
            )
        vars(pipeline)[_INSTALLED] = (self, self._install(pipeline))

    def remove(self, pipeline: DiffusionPipeline) -> None:
        """Take this edit out again: the pipeline is bit for bit what it was.

        Raises ValueError when it is not installed there.
        """
        edit, undo = vars(pipeline).get(_INSTALLED, (None, None))
        if edit is not self:
            raise ValueError("this edit is not installed in this pipeline")
        undo()
        del vars(pipeline)[_INSTALLED]

    def save(self, path: Path) -> None:
        """Write the edit as one safetensors file with its record in the header; equal edits give equal bytes."""
        about, tensors = self._stored()
        write_tensors(path, tensors, self.record | {"edit": {"format": FORMAT, "form": self.form, **about}})

    @staticmethod
    def load(path: Path) -> Edit:
        """Read an edit of any form.

        Raises ValueError, naming the file, when it is no edit, of a format of another version, or not what its header
        says.
        """
        tensors, record = read_tensors(path)
        if not record:
            raise ValueError(f"{path}: this is no edit (its header has no 'lethe' record)")
        try:
            return _parsed(record, tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @abstractmethod
    def _install(self, pipeline: DiffusionPipeline) -> Callable[[], None]:
        """Change the pipeline; returns what changes it back."""

    @abstractmethod
    def _stored(self) -> tuple[dict, Mapping[str, Tensor]]:
        """What the header says of the form, and the tensors of the file."""


class ParameterEdit(Edit):
    """An edit of parameters of the U-Net."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters that change, and the shape that a base must give them."""

    @abstractmethod
    def edited(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of `parameters`, the base's own by name, in their dtypes and on their devices."""

    @torch.no_grad()
    def _install(self, pipeline: DiffusionPipeline) -> Callable[[], None]:
        parameters = dict(pipeline.unet.named_parameters())
        check_fit(self, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
        changing = {name: parameters[name] for name in self.shapes}
        edited = self.edited(changing)
        check_edited(edited)
        before = {name: parameter.detach().cpu().clone() for name, parameter in changing.items()}
        _write(changing, edited)
        return lambda: _write(changing, before)


@torch.no_grad()
def _write(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def check_edited(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError when edited weights are not finite in the base's dtype, which may hold less than the edit's."""
    for name, weight in weights.items():
        require_finite(weight.reshape(1, -1), of=f"the edited {name}", mend=mend_of(weight.dtype))


def check_fit(edit: ParameterEdit, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError when a base with parameters of these shapes is none that the edit can change."""
    for name, shape in edit.shapes.items():
        if name not in shapes:
            raise ValueError(f"the edit does not fit: the base has no parameter {name}")
        if tuple(shapes[name]) != shape:
            raise ValueError(
                f"the edit does not fit: {name} is {list(shape)} in the edit and {list(shapes[name])} in the base"
            )


def _parsed(record: dict, tensors: dict[str, Tensor]) -> Edit:
    """The edit that a header describes. Raises ValueError when the header or the tensors are not as it says."""
    from lethe.edits.factors import FactoredEdit  # here, because the forms import this module
    from lethe.edits.guidance import GuidanceEdit
    from lethe.edits.weights import WeightEdit

    forms = {form.form: form for form in (WeightEdit, FactoredEdit, GuidanceEdit)}
    about = record.pop("edit", None)
    if not isinstance(about, dict) or "format" not in about:
        raise ValueError("this is no edit (its header names no format)")
    if about["format"] != FORMAT:
        raise ValueError(
            f"this edit has format {about['format']!r}, this Lethe reads {FORMAT}; use a version that fits"
        )
    base, concepts = record.get("base"), record.get("concepts")
    named = isinstance(base, dict) and all(isinstance(base.get(key), str) for key in ("name", "model", "fingerprint"))
    if not named:
        raise ValueError("the header does not say which base the edit was made for")
    if not re.fullmatch(r"\w*", str(base.get("variant") or "")):  # it names files
        raise ValueError(f"the header's variant of the base, {base['variant']!r}, is no name")
    if not isinstance(record.get("step"), str):
        raise ValueError("the header does not say which method made the edit")
    if not isinstance(concepts, list) or not all(isinstance(concept, str) for concept in concepts):
        raise ValueError("the header does not say which concepts the edit erases")
    for key in ("settings", "environment"):
        if not isinstance(record.get(key, {}), dict):
            raise ValueError(f"the header's {key} are no JSON object")
    form = about.get("form")
    if not isinstance(form, str) or form not in forms:
        raise ValueError(f"the form {form!r} is unknown; it must be one of {', '.join(forms)}")
    return forms[form].parsed(about, tensors, record)
