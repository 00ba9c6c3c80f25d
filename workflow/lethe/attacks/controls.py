"""Images that cannot show a target: of other classes, of ghosts, of a U-Net with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel

from lethe.attacks.judges import Judge, scores, threshold

OTHERS, GHOSTS, RANDOM = "others", "ghosts", "random"


@contextmanager
def random_weights(unet: UNet2DConditionModel, seed: int) -> Iterator[None]:
    """While the block runs, every parameter is drawn as when such a network is made; then it is bit for bit as before.

    Of layers without such a rule of their own (norms), weights are as a new network has them, 1 and 0.
    """
    before = {name: parameter.detach().cpu().clone() for name, parameter in unet.named_parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in unet.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                parameter.copy_(before[name])


def thresholds(
    images: pd.DataFrame, judge: Judge, column: str, targets: Sequence[str], *, share: float, least: float
) -> dict[str, float]:
    """For each target the threshold that a share of the control images of each sort passes at most.

    images: rows with their `sort`, what was asked for (`subject`), and in `column` the judge's probabilities. An image
    that was asked for by the target's own name is no control, unless it is of a ghost.
    """
    found = {}
    for target in targets:
        groups = [group for _, group in control_scores(images, judge, column, target)]
        found[target] = threshold(groups, share=share, least=least)
    return found


def control_scores(images: pd.DataFrame, judge: Judge, column: str, target: str) -> Iterator[tuple[str, np.ndarray]]:
    """The scores `[n]` of each sort of control images for a target."""
    place = judge.place(target)
    for sort, group in images.groupby("sort", sort=False):
        kept = group if sort != OTHERS else group[group["subject"] != target]
        if len(kept):
            yield str(sort), scores(np.stack(kept[column].to_list()), place)
