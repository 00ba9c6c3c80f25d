"""Projections changed by a transform that they share and by low-rank updates of their own: W T + sum up down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lethe.bases.devices import exact


@dataclass(frozen=True)
class LowRank:
    """A low-rank update `up @ down` of one projection: `down` `[r, d]`, `up` `[out, r]`."""

    down: Tensor
    up: Tensor

    @classmethod
    def zero(cls, weight: Tensor) -> LowRank:
        """The update of rank 0 of a projection `[out, d]`, which changes nothing."""
        return cls(weight.new_zeros(0, weight.shape[1]), weight.new_zeros(len(weight), 0))

    def add_to(self, weight: Tensor) -> None:
        """Add the update to `weight` `[out, d]`, in place, in its dtype and on its device."""
        weight.addmm_(self.up.to(weight), self.down.to(weight))


def apply(weight: Tensor, transform: Tensor, updates: Iterable[LowRank]) -> Tensor:
    """W `[out, d]` to W T + sum up down, computed in float64, returned in the dtype and on the device of `weight`."""
    edited = exact(weight)
    edited = edited @ transform.to(edited)
    for update in updates:
        update.add_to(edited)
    return edited.to(weight)
