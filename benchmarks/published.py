"""The closed forms as MACE's equations are written: solved for each projection anew, over all prompts, in float32.

Source: arXiv 2403.06135, Eq. 1-2 and 6-7. `Sum` says how a prompt's tokens are added up: `by_prompt` multiplies two
matrices, `by_token` forms one outer product for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Sum = Callable[[Tensor, Tensor], Tensor]


def by_prompt(values: Tensor, keys: Tensor) -> Tensor:
    """Sum of v k^T over the rows of `values` `[n, out]` and `keys` `[n, d]`: `[out, d]`."""
    return values.mT @ keys


def by_token(values: Tensor, keys: Tensor) -> Tensor:
    """The same from n outer products."""
    return (values[:, :, None] * keys[:, None, :]).sum(0)


def refine(
    weight: Tensor, pairs: Iterable[tuple[Tensor, Tensor]], prior: Tensor, *, scale: float, ridge: float, add: Sum
) -> Tensor:
    """Eq. 2 for one projection W `[out, d]`; `pairs` holds f and g `[tokens, d]` of every prompt of every concept."""
    left = scale * weight @ prior + ridge * weight
    right = scale * prior + ridge * torch.eye(len(prior))
    for f, g in pairs:
        left += add(g @ weight.mT, f)
        right += add(f, f)
    return left @ torch.inverse(right)


def fuse(
    weight: Tensor,
    refined: Tensor,
    concepts: Iterable[tuple[Tensor, Sequence[Tensor]]],
    prior: Tensor,
    *,
    scale: float,
    ridge: float,
    add: Sum,
) -> Tensor:
    """Eq. 7 for one projection; `concepts` holds each concept's B A `[out, d]` and its prompts `[tokens, d]`."""
    left = scale * weight @ prior + ridge * refined
    right = scale * prior + ridge * torch.eye(len(prior))
    for update, prompts in concepts:
        wanted = refined + update
        for e in prompts:
            left += add(e @ wanted.mT, e)
            right += add(e, e)
    return left @ torch.inverse(right)
