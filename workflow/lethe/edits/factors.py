"""Edits that hold what makes new projections out of the base's own: a transform they share, a low-rank update of each.

Much smaller than the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lethe.edits.edit import ParameterEdit
from lethe.edits.low_rank import LowRank, apply


@dataclass(frozen=True)
class FactoredEdit(ParameterEdit):
    """Changed projections, W to W transform + up down.

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
    record: dict = field(default_factory=dict)
    form = "factors"

    @classmethod
    def stacked(
        cls, transform: Tensor, concepts: Iterable[tuple[str, Mapping[str, LowRank]]], record: dict | None = None
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
        return cls(transform.cpu().float(), stacks, rows, record=record or {})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        width = len(self.transform)
        return {f"{name}.weight": (len(update.up), width) for name, update in self.updates.items()}

    def edited(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As of `ParameterEdit`; the product is computed in float64 and rounded once."""
        return {
            name: apply(parameter, self.transform, [self.updates[name.removesuffix(".weight")]])
            for name, parameter in parameters.items()
        }

    def share(self, concept: str) -> dict[str, LowRank]:
        """A concept's own update of each projection."""
        first, end = self.rows[concept]
        return {name: LowRank(u.down[first:end], u.up[:, first:end]) for name, u in self.updates.items()}

    @classmethod
    def parsed(cls, about: dict, tensors: dict[str, Tensor], record: dict) -> FactoredEdit:
        """The edit of a file. Raises ValueError when its tensors are not as its header says."""
        if not tensors:
            raise ValueError("the edit changes nothing: it holds no tensors")
        rows = about.get("rows")
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
        return cls(transform, updates, {name: tuple(rows[name]) for name in record["concepts"]}, record=record)

    def _stored(self) -> tuple[dict, Mapping[str, Tensor]]:
        tensors = {"transform": self.transform}
        for name, update in self.updates.items():
            tensors |= {f"{name}.down": update.down, f"{name}.up": update.up}
        return {"rows": self.rows}, tensors


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
