"""Edits: what a method changes in a base's U-Net, kept apart from the base, in one of two forms.

`weights` holds the new values of any parameters. `factors` holds what makes the new projections out of the base's own:
the transform that they share and a low-rank update of each, which is much smaller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lethe.edits.low_rank import LowRank, apply
from lethe.files.tensors import read_tensors, write_tensors
from lethe.finite import mend_of, require_finite

FORMAT = 1  # of the file; a reader refuses a number it does not know


@dataclass(frozen=True)
class Edit:
    """Changed U-Net parameters by name (`weights`) and what made them (`record`, with the base's `fingerprint`)."""

    weights: dict[str, Tensor]
    record: dict

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters that change, and the shape that a base must give them."""
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    def edited(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of `parameters`, the base's own by name, in their dtypes and on their devices."""
        return {name: self.weights[name].to(parameter) for name, parameter in parameters.items()}


@dataclass(frozen=True)
class FactoredEdit:
    """Changed projections, W to W transform + up down, and what made them (`record`, as in `Edit`).

    transform: T2 `[d, d]` of `lethe.erasure.closed_form.fuse`.  updates: for each projection (a module's name) the
    updates of all concepts on top of each other: down `[n, d]`, up `[out, n]`.  rows: for each concept, in the order of
    the record, (first, last + 1) of its rows of every `down` and columns of every `up`.

    A concept's rows are what its LoRA still adds after fusion. Without them the edit is not that of the other concepts:
    the transform would still send the concept's words to its anchor, and weigh its prompts among those to fit. To take
    a concept back, join the others again.
    """

    transform: Tensor
    updates: dict[str, LowRank]
    rows: dict[str, tuple[int, int]]
    record: dict

    @classmethod
    def stacked(
        cls, transform: Tensor, concepts: Iterable[tuple[str, Mapping[str, LowRank]]], record: dict
    ) -> FactoredEdit:
        """Make an edit, in float32 on the CPU, of a transform and of each concept's updates by projection."""
        rows: dict[str, tuple[int, int]] = {}
        parts: dict[str, list[LowRank]] = {}
        total = 0
        for concept, updates in concepts:
            (rank,) = {len(update.down) for update in updates.values()}
            rows[concept], total = (total, total + rank), total + rank
            for name, update in updates.items():
                parts.setdefault(name, []).append(LowRank(update.down.cpu().float(), update.up.cpu().float()))
        stacks = {
            name: LowRank(torch.cat([u.down for u in updates]), torch.cat([u.up for u in updates], dim=1))
            for name, updates in parts.items()
        }
        return cls(transform.cpu().float(), stacks, rows, record)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """As of `Edit`."""
        width = len(self.transform)
        return {f"{name}.weight": (len(update.up), width) for name, update in self.updates.items()}

    def edited(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As of `Edit`; the product is computed in float64 and rounded once."""
        return {
            name: apply(parameter, self.transform, [self.updates[name.removesuffix(".weight")]])
            for name, parameter in parameters.items()
        }

    def share(self, concept: str) -> dict[str, LowRank]:
        """A concept's own update of each projection."""
        first, end = self.rows[concept]
        return {name: LowRank(u.down[first:end], u.up[:, first:end]) for name, u in self.updates.items()}


def save_edit(path: Path, edit: Edit | FactoredEdit) -> None:
    """Write an edit as one safetensors file with its record in the header; equal edits give equal bytes."""
    if isinstance(edit, Edit):
        form, tensors = {"form": "weights"}, edit.weights
    else:
        form, tensors = {"form": "factors", "rows": edit.rows}, {"transform": edit.transform}
        for name, update in edit.updates.items():
            tensors |= {f"{name}.down": update.down, f"{name}.up": update.up}
    write_tensors(path, tensors, edit.record | {"edit": {"format": FORMAT, **form}})


def load_edit(path: Path) -> Edit | FactoredEdit:
    """Read an edit of either form.

    Raises ValueError, naming the file, when it is no edit, of a format of another version, or not what its header says.
    """
    tensors, record = read_tensors(path)
    if not record:
        raise ValueError(f"{path}: this is no edit (its header has no 'lethe' record)")
    try:
        return _parsed(record, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@torch.no_grad()
def apply_edit(unet: nn.Module, edit: Edit | FactoredEdit, *, base_fingerprint: str) -> None:
    """Edit the weights of an unedited `unet`, keeping its dtype and device.

    Raises ValueError, leaving `unet` as it was, when the edit was made for another base, does not fit or overflows.
    """
    made_for = edit.record["base"]["fingerprint"]
    if made_for != base_fingerprint:
        raise ValueError(
            f"apply_edit: the edit was made for base {edit.record['base']['name']} ({made_for[:12]}), this one is "
            f"{base_fingerprint[:12]}; make the edit again for this base"
        )
    parameters = dict(unet.named_parameters())
    check_fit(edit, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    edited = edit.edited({name: parameters[name] for name in edit.shapes})
    check_edited(edited)
    for name, weight in edited.items():
        parameters[name].copy_(weight)


def check_edited(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError when edited weights are not finite in the base's dtype, which may hold less than the edit's."""
    for name, weight in weights.items():
        require_finite(weight.reshape(1, -1), of=f"the edited {name}", mend=mend_of(weight.dtype))


def check_fit(edit: Edit | FactoredEdit, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError when a base with parameters of these shapes is none that the edit can change."""
    for name, shape in edit.shapes.items():
        if name not in shapes:
            raise ValueError(f"the edit does not fit: the base has no parameter {name}")
        if tuple(shapes[name]) != shape:
            raise ValueError(
                f"the edit does not fit: {name} is {list(shape)} in the edit and {list(shapes[name])} in the base"
            )


def _parsed(record: dict, tensors: dict[str, Tensor]) -> Edit | FactoredEdit:
    """The edit that a header describes. Raises ValueError when the header or the tensors are not as it says."""
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
    if not tensors:
        raise ValueError("the edit changes nothing: it holds no tensors")
    if about.get("form") == "weights":
        return Edit(tensors, record)
    if about.get("form") == "factors":
        return _parsed_factors(about.get("rows"), tensors, record)
    raise ValueError(f"the form {about.get('form')!r} is unknown; it must be weights or factors")


def _parsed_factors(rows: object, tensors: dict[str, Tensor], record: dict) -> FactoredEdit:
    transform = tensors.pop("transform", torch.empty(0))
    width = len(transform)
    if transform.shape != (width, width) or not width:
        raise ValueError(f"transform must be a square matrix; it is {list(transform.shape)}")
    names = sorted({name.rpartition(".")[0] for name in tensors})
    if sorted(tensors) != sorted(f"{name}.{part}" for name in names for part in ("down", "up")):
        raise ValueError("the tensors beside transform must be pairs <projection>.down and <projection>.up")
    total = _rows_in_all(rows, record["concepts"])
    for name in names:
        down, up = tensors[f"{name}.down"], tensors[f"{name}.up"]
        if down.shape != (total, width) or up.dim() != 2 or up.shape[1] != total:
            raise ValueError(
                f"{name}: down must be {[total, width]} and up [any, {total}], as the header says; "
                f"they are {list(down.shape)} and {list(up.shape)}"
            )
    updates = {name: LowRank(tensors[f"{name}.down"], tensors[f"{name}.up"]) for name in names}
    return FactoredEdit(transform, updates, {name: tuple(rows[name]) for name in record["concepts"]}, record)


def _rows_in_all(rows: object, concepts: list[str]) -> int:
    """How many rows the concepts have together; ValueError when they overlap, leave gaps or are of other concepts."""
    found = rows if isinstance(rows, dict) else {}
    total = 0
    for concept in concepts:
        match found.get(concept):
            case [int(first), int(end)] if first == total and end >= first:
                total = end
            case _:
                raise ValueError(f"the header's rows of {concept!r} do not follow on those of the concepts before it")
    if len(found) != len(set(concepts)) or len(concepts) != len(found):
        raise ValueError("the header's rows are not those of its concepts")
    return total
