"""An experiment: ESD with a contrastive term (InfoNCE, arXiv 1807.03748). No paper describes it, and none tested it.

A summary of the ESD paper ascribes to it a contrastive fine-tuning, by cosine similarities of output, noise and
reference at temperature 0.07, weight 0.5, with Adam at 1e-4, weight decay 1e-4 and augmentations. The paper
(2303.07345) has none of it. How these go together is this project's reading:

    L = |e - t|^2 / n - weight log( exp(cos(e, t) / T) / sum_{z in {t, e*_c, e_n}} exp(cos(e, z) / T) )

e is the student's output and t its target as in `lethe.methods.esd`; they are the pair that belongs together. What it
is to be told from are e*_c, which the U-Net as it was predicts for the concept, and e_n, the prediction that the noise
of the picture itself would be. The augmentation is a mirror image of the latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.schedulers import training_schedule
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept
from lethe.methods.esd import Seen, as_drawn, squared, trained

NAME = "esd-contrastive"


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """ESD's training with the contrastive term beside its loss.

    `settings` are those of the manifest, and `seed`. Raises as `lethe.methods.esd.erase` does.
    """
    alphas, prediction = training_schedule(base.pipeline.scheduler)

    def loss(seen: Seen) -> Tensor:
        others = [seen.concept]
        if settings["noise_negative"]:
            others.append(of_noise(seen, alphas, prediction))
        return squared(seen) + settings["weight"] * contrast(seen.output, seen.target, others, settings["temperature"])

    varied = {"none": as_drawn, "mirror": mirrored}[settings["augmentation"]]
    return trained(
        base, concepts, settings, workspace, name=NAME, loss=loss, varied=varied, weight_decay=settings["weight_decay"]
    )


def contrast(output: Tensor, target: Tensor, others: Sequence[Tensor], temperature: float) -> Tensor:
    """InfoNCE of one output, a scalar: minus the log of the share of its target, by cosine, among it and others.

    All have one shape, and count as vectors.
    """
    likeness = [F.cosine_similarity(output.flatten(), one.flatten(), dim=0) for one in (target, *others)]
    return -F.log_softmax(torch.stack(likeness) / temperature, dim=0)[0]


def of_noise(seen: Seen, alphas: Tensor, prediction: str) -> Tensor:
    """The prediction of a step's latents that its noise would be, `[c, h, w]`, float32, up to its length.

    For `epsilon` the noise; for `v_prediction` sqrt(a) noise - sqrt(1 - a) x_0 with the x_0 that x_t would then have,
    which is (noise - sqrt(1 - a) x_t) / sqrt(a) (arXiv 2202.00512, Appendix D). Only its direction counts here.
    """
    noise = seen.noise.float()
    if prediction == "epsilon":
        return noise
    return noise - (1 - alphas[int(seen.time)]).sqrt().to(noise) * seen.latents.float()


def mirrored(latents: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and their noise, `[1, c, h, w]`, left and right exchanged in one of two draws."""
    if int(torch.randint(2, (), generator=generator)):
        return latents.flip(-1), noise.flip(-1)
    return latents, noise
