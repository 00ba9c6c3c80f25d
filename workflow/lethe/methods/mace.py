"""MACE (arXiv 2403.06135): refine all cross-attention projections, then fuse one LoRA per concept into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.closed_form import LowRank, apply, fuse, refine
from lethe.moments import ConceptMoments


@dataclass(frozen=True)
class MaceSettings:
    """Weights of the two closed-form steps; names as in the configuration (`mace`)."""

    refine_scale: float
    fuse_scale: float
    ridge: float


def refinement(moments: Sequence[ConceptMoments], prior: Tensor | None, settings: MaceSettings) -> Tensor:
    """The transform T `[d, d]` that refines a base for these concepts together (Eq. 1-2)."""
    source = torch.stack([m.source for m in moments]).sum(0)
    cross = torch.stack([m.cross for m in moments]).sum(0)
    return refine(source, cross, prior, scale=settings.refine_scale, ridge=settings.ridge)


def transformed(projections: Mapping[str, Tensor], transform: Tensor) -> dict[str, Tensor]:
    """Every projection W `[out, d]` as W T, in its own dtype."""
    return {name: apply(weight, transform, []) for name, weight in projections.items()}


def erase(
    projections: Mapping[str, Tensor],
    moments: Sequence[ConceptMoments],
    loras: Sequence[Mapping[str, LowRank]],
    prior: Tensor | None,
    settings: MaceSettings,
) -> dict[str, Tensor]:
    """The weights of every projection after refinement and fusion (Eq. 1-2 and 6-7).

    Args:
        projections: W `[out, d]` by module name.  moments, loras: one per concept, in the same order.
        prior: second moment of the text to preserve, or None.
    Raises: ValueError when a LoRA lacks a projection, or a system is singular.
    """
    for lora in loras:
        if missing := sorted(set(projections) - set(lora)):
            raise ValueError(f"erase: a LoRA has no update for {missing[0]}; was it trained on another base?")
    transform = refinement(moments, prior, settings)
    shared, updates = fuse(
        transform, [m.fusion for m in moments], loras, prior, scale=settings.fuse_scale, ridge=settings.ridge
    )
    return {name: apply(weight, shared, [concept[name] for concept in updates]) for name, weight in projections.items()}
