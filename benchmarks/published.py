"""The closed forms as MACE's equations are written: solved for each projection anew, over all prompts, in float32.

Source: arXiv 2403.06135, Eq. 1-2 and 6-7. `Sum` says how the tokens of a concept's prompts are added up: `by_position`
as the published program does, `by_prompt` with less memory to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Sum = Callable[[Tensor, Tensor], Tensor]


def by_position(values: Tensor, keys: Tensor) -> Tensor:
    """Sum of v k^T `[out, d]` over `values` `[prompts, tokens, out]` and `keys` `[prompts, tokens, d]`.

    One product over the prompts for each position, all positions as a batch, then the sum of these.
    """
    return torch.bmm(values.permute(1, 2, 0), keys.transpose(0, 1)).sum(0)


def by_prompt(values: Tensor, keys: Tensor) -> Tensor:
    """The same from one product over the positions for each prompt."""
    total = values.new_zeros(values.shape[-1], keys.shape[-1])
    for v, k in zip(values, keys, strict=True):
        total += v.mT @ k
    return total


def refine(
    weight: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], prior: Tensor, *, scale: float, ridge: float, add: Sum
) -> Tensor:
    """Eq. 2 for one projection W `[out, d]`; `pairs` holds f and g `[prompts, tokens, d]` of every concept."""
    left = scale * weight @ prior + ridge * weight
    right = scale * prior + ridge * torch.eye(len(prior))
    for f, g in pairs:
        left += add(g @ weight.mT, f)
        right += add(f, f)
    return left @ torch.inverse(right)


def fuse(
    weight: Tensor,
    refined: Tensor,
    concepts: Iterable[tuple[Tensor, Tensor]],
    prior: Tensor,
    *,
    scale: float,
    ridge: float,
    add: Sum,
) -> Tensor:
    """Eq. 7 for one projection; `concepts` holds each one's B A `[out, d]` and its prompts `[prompts, tokens, d]`."""
    left = scale * weight @ prior + ridge * refined
    right = scale * prior + ridge * torch.eye(len(prior))
    for update, e in concepts:
        left += add(e @ (refined + update).mT, e)
        right += add(e, e)
    return left @ torch.inverse(right)
