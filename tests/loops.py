"""Closed forms as the equations say them, layer by layer and token by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.edits.low_rank import LowRank


@dataclass
class Case:
    """Concepts over L layers: weights, (f, g) pairs, fused tokens and LoRAs of each concept, preserved tokens."""

    weights: dict[str, Tensor]
    pairs: list[tuple[Tensor, Tensor]]
    tokens: list[Tensor]
    loras: list[dict[str, LowRank]]
    preserved: Tensor

    @property
    def source(self) -> Tensor:
        return sum(f.mT @ f for f, _ in self.pairs)

    @property
    def cross(self) -> Tensor:
        return sum(g.mT @ f for f, g in self.pairs)

    @property
    def prior(self) -> Tensor:
        return self.preserved.mT @ self.preserved

    @property
    def moments(self) -> list[Tensor]:
        return [e.mT @ e for e in self.tokens]


def make_case(seed: int, *, d: int = 5, layers: int = 2, concepts: int = 2, rank: int = 1, tokens: int = 4) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    names = [f"layer{k}" for k in range(layers)]
    widths = {name: 3 + k for k, name in enumerate(names)}
    return Case(
        {name: draw(widths[name], d) for name in names},
        [(draw(tokens, d), draw(tokens, d)) for _ in range(concepts)],
        [draw(tokens, d) for _ in range(concepts)],
        [{name: LowRank(draw(rank, d), draw(widths[name], rank)) for name in names} for _ in range(concepts)],
        draw(6, d),
    )


def refined_by_loop(weight: Tensor, case: Case, scale: float, ridge: float) -> Tensor:
    """MACE Eq. 2 for one layer: every token adds its outer products, then one general inverse."""
    left, right = ridge * weight, ridge * torch.eye(weight.shape[1], dtype=torch.float64)
    for fs, gs in case.pairs:
        for f, g in zip(fs, gs, strict=True):
            left, right = left + torch.outer(weight @ g, f), right + torch.outer(f, f)
    for p in case.preserved:
        left, right = left + scale * torch.outer(weight @ p, p), right + scale * torch.outer(p, p)
    return left @ torch.linalg.inv(right)


def fused_by_loop(name: str, case: Case, refined: Tensor, scale: float, ridge: float) -> Tensor:
    """MACE Eq. 7 for one layer, with a pull of weight `ridge` to the refined weights."""
    left, right = ridge * refined, ridge * torch.eye(refined.shape[1], dtype=torch.float64)
    for es, lora in zip(case.tokens, case.loras, strict=True):
        wanted = refined + lora[name].up @ lora[name].down
        for e in es:
            left, right = left + torch.outer(wanted @ e, e), right + torch.outer(e, e)
    for p in case.preserved:
        left, right = left + scale * torch.outer(case.weights[name] @ p, p), right + scale * torch.outer(p, p)
    return left @ torch.linalg.inv(right)


def apart(got: Tensor, want: Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()
