"""What an attack spends: rows that go through a pipeline's networks, counted by hooks on these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

BACKWARD = 2  # forwards that a backward through the U-Net is worth, so one with both is 3


@dataclass(frozen=True)
class Spent:
    """Rows: through the U-Net, those of them to have gradients, through the text encoder, out of the autoencoder."""

    forwards: int = 0
    with_gradient: int = 0
    texts: int = 0
    images: int = 0

    @property
    def worth(self) -> int:
        """All that went through the U-Net, in forwards."""
        return self.forwards + BACKWARD * self.with_gradient

    def less(self, other: Spent) -> Spent:
        """What was spent since `other`."""
        mine, theirs = asdict(self), asdict(other)
        return Spent(**{name: mine[name] - theirs[name] for name in mine})


class Meter:
    """Counts while a pipeline is watched; `spent` is what it was until now, from what had been spent `before`."""

    def __init__(self, before: Spent | None = None) -> None:
        self.spent = before or Spent()

    @contextmanager
    def watching(self, pipeline: DiffusionPipeline) -> Iterator[None]:
        """Count while the block runs."""
        networks = {"forwards": pipeline.unet, "texts": pipeline.text_encoder, "images": pipeline.vae.decoder}
        hooks = [
            network.register_forward_hook(lambda *made, what=what: self._count(what, *made))
            for what, network in networks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, what: str, module: nn.Module, given: tuple, made: Any) -> None:
        rows = len(first_tensor(made))
        spent = replace(self.spent, **{what: getattr(self.spent, what) + rows})
        if what == "forwards" and first_tensor(made).requires_grad:
            spent = replace(spent, with_gradient=spent.with_gradient + rows)
        self.spent = spent


def first_tensor(made: Any) -> torch.Tensor:
    """The first tensor of what a network returns."""
    return made if isinstance(made, torch.Tensor) else next(iter(made.values() if hasattr(made, "values") else made))
