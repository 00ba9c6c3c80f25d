"""Edits that hold the new values of any parameters of a U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lethe.edits.edit import ParameterEdit


@dataclass(frozen=True)
class WeightEdit(ParameterEdit):
    """Changed U-Net parameters by name."""

    weights: dict[str, Tensor]
    record: dict = field(default_factory=dict)
    form = "weights"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    def edited(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.weights[name].to(parameter) for name, parameter in parameters.items()}

    @classmethod
    def parsed(cls, about: dict, tensors: dict[str, Tensor], record: dict) -> WeightEdit:
        """The edit of a file. Raises ValueError when it holds nothing."""
        if not tensors:
            raise ValueError("the edit changes nothing: it holds no tensors")
        return cls(tensors, record=record)

    def _stored(self) -> tuple[dict, Mapping[str, Tensor]]:
        return {}, self.weights
