"""Relaxed tokens: rows of weights over a vocabulary that are 0 or more and add up to 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def project(rows: Tensor) -> Tensor:
    """The nearest point of the simplex to each row of `[..., n]`: max(x - mu, 0) with the mu that makes the sum 1.

    Source: arXiv 1101.6081; UnlearnDiffAtk (arXiv 2310.11868) projects its perturbation so.
    """
    ordered = rows.sort(dim=-1, descending=True).values
    over = ordered.cumsum(-1) - 1
    counts = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    kept = (ordered - over / counts > 0).sum(-1, keepdim=True)
    return (rows - over.gather(-1, kept - 1) / kept).clamp(min=0)


def drawn(rows: Tensor, generator: torch.Generator) -> Tensor:
    """One place of each row of `[..., n]`, drawn with its weights: int64 `[...]`, on the CPU as the generator."""
    flat = rows.detach().reshape(-1, rows.shape[-1]).cpu().float()
    return torch.multinomial(flat.clamp(min=0) + 1e-12, 1, generator=generator).reshape(rows.shape[:-1])


def straight_through(gradients: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
    """The gradient of weights `[..., n]` from those of the embeddings `[..., d]` they chose from tables `[n, d]`.

    clamp((dL/de) E^T, -1, 1), as the published code of UnlearnDiffAtk has it, of several encoders the sum within.
    """
    return sum(part @ table.to(part).mT for part, table in zip(gradients, tables, strict=True)).clamp(-1, 1)
