"""The closed-form steps of mass erasure: refinement of all projections by one transform, and fusion of LoRAs.

Both solve one symmetric positive definite d x d system in float64 that every cross-attention projection shares.
Source: MACE, arXiv 2403.06135, Eq. 1-2 (refinement) and Eq. 6-7 (fusion), with the weights factored out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.edits.low_rank import LowRank

log = logging.getLogger(__name__)

REFUSE_ABOVE = 1e14
WARN_ABOVE = 1e11


class SingularError(ValueError):
    """A system whose solution means nothing."""


@dataclass(frozen=True)
class System:
    """A factorised symmetric positive definite matrix: its lower Cholesky factor `[d, d]` and its condition number."""

    factor: Tensor
    condition: float

    def divide(self, matrix: Tensor) -> Tensor:
        """`matrix @ M^-1` for `matrix` `[n, d]`."""
        return torch.cholesky_solve(matrix.mT, self.factor).mT


def factorise(matrix: Tensor) -> System:
    """Factorise a symmetric matrix `[d, d]` in float64.

    Raises SingularError when it is singular or its condition number exceeds 1e14.
    """
    matrix = (matrix + matrix.mT).to(torch.float64) / 2
    values = torch.linalg.eigvalsh(matrix)
    smallest, largest = values[0].item(), values[-1].item()
    condition = largest / smallest if smallest > 0 else float("inf")
    if not condition < REFUSE_ABOVE:
        raise SingularError(
            f"factorise: the system's condition number is {condition:.1e}, so its solution means nothing; "
            "raise `ridge` or `scale`"
        )
    if condition > WARN_ABOVE:
        log.warning("the condition number is %.1e: about %d digits are lost", condition, len(str(int(condition))) - 1)
    return System(torch.linalg.cholesky(matrix), condition)


def null_space(moment: Tensor, tau: float) -> Tensor:
    """An orthonormal basis `[d, r]` of the directions in which a mean of outer products `[d, d]` is below tau.

    Source: SPEED, arXiv 2503.07392, after AlphaEdit.
    """
    values, vectors = torch.linalg.eigh(moment)
    return vectors[:, values < tau]


def refine(source: Tensor, cross: Tensor, prior: Tensor | None, *, scale: float, ridge: float) -> Tensor:
    """Return T `[d, d]` float64, so that W T is the refined form of every projection W.

    T = (C + scale P + ridge I) (F + scale P + ridge I)^-1. Source: MACE Eq. 1-2.

    Args:
        source: F, sum of f f^T over all concepts.  cross: C, sum of g f^T.  prior: P, or None for none.
        scale: weight of the prior, >= 0.  ridge: pull towards W, >= 0.
    Raises: ValueError on a negative weight; SingularError.
    """
    kept = _kept(source, prior, scale=scale, ridge=ridge)
    system = factorise(source.to(torch.float64) + kept)
    return system.divide(cross.to(torch.float64) + kept)


@dataclass(frozen=True)
class Fusion:
    """What `fuse` found for any number of concepts: W* = W T2 + sum_i up_i down_i.

    `transform` T2 `[d, d]` float64; `system` M, from which `project` makes the concepts' updates one by one.
    """

    transform: Tensor
    system: System

    def project(self, moment: Tensor, updates: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """One concept's LoRAs B_i A_i, by projection, as they enter the sum: the same `up`, down_i = A_i G_i M^-1.

        Args:
            moment: the concept's G_i `[d, d]`.  updates: a LowRank for each projection, `down` `[r, d]`.
        """
        downs = torch.cat([update.down.to(torch.float64) for update in updates.values()]) @ moment.to(torch.float64)
        ranks = [len(update.down) for update in updates.values()]
        projected = self.system.divide(downs).split(ranks)
        return {name: LowRank(down, update.up) for (name, update), down in zip(updates.items(), projected, strict=True)}


def fuse(transform: Tensor, fusion: Tensor, prior: Tensor | None, *, scale: float, ridge: float) -> Fusion:
    """Fuse the concepts' LoRAs, given only the sum of their moments.

    M = sum_i G_i + scale P + ridge I;  T2 = (T (sum_i G_i + ridge I) + scale P) M^-1;  down_i = A_i G_i M^-1.
    Minimises sum_i |W* e - (W T + B_i A_i) e|^2 + scale |W* p - W p|^2 + ridge |W* - W T|^2. Source: MACE Eq. 6-7.

    Args:
        transform: T of `refine`.  fusion: sum of G_i over all concepts.  prior, scale, ridge: as in `refine`, for
            this step.
    Raises: ValueError on a negative weight; SingularError.
    """
    kept = _kept(fusion, prior, scale=scale, ridge=ridge)
    eye = torch.eye(len(fusion), dtype=torch.float64, device=fusion.device)
    preserved = torch.zeros_like(eye) if prior is None else scale * prior.to(torch.float64)
    total = fusion.to(torch.float64)
    system = factorise(total + kept)
    return Fusion(system.divide(transform.to(torch.float64) @ (total + ridge * eye) + preserved), system)


def _kept(like: Tensor, prior: Tensor | None, *, scale: float, ridge: float) -> Tensor:
    if scale < 0 or ridge < 0:
        raise ValueError(f"refine and fuse: `scale` and `ridge` must be >= 0; got {scale} and {ridge}")
    eye = torch.eye(len(like), dtype=torch.float64, device=like.device)
    return ridge * eye if prior is None else scale * prior.to(torch.float64) + ridge * eye
