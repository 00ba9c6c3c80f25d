"""AC, ablating concepts (arXiv 2303.13516): a concept's prompt becomes what the prompt of its anchor is.

On latents x_t of images of the anchor, a their caption and c the same caption with the concept in it:

    model-based:   mean (e(x_t, c) - sg e(x_t, a))^2    sg: the U-Net as it is at that step, without gradient
    noise-based:   mean (e(x_t, c) - n)^2               n: the noise that was added, or the velocity
    preservation:  + w mean (e(x'_t, a') - n')^2        on images of the anchor drawn anew
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lethe.bases.base import Base
from lethe.bases.denoising import Conditions, conditions_of, predicted
from lethe.bases.diffusion import encode_images, noised, target
from lethe.bases.pixels import to_pixels
from lethe.bases.schedulers import training_schedule
from lethe.bases.unet import PROJECTIONS, cross_attention_projections
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.inputs.concepts import Concept

RATE = 1.6e-5  # 2e-6 times the batch of 4 times two GPUs, as the published code scales it
ATTENTION = ("to_q", "to_k", "to_v", "to_out")


@dataclass(frozen=True)
class Examples:
    """Images of the anchors of all concepts, and their prompts.

    Of n images: `latents` `[n, c, h, w]` scaled; `captions` `[n]`, which row of `prompts` is an image's caption;
    `asked` `[n, 3]`, which rows ask for the concept in its place, one drawn as likely as the other.
    """

    latents: Tensor
    captions: Tensor
    asked: Tensor
    prompts: Conditions


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Train the chosen parameters of the U-Net on images of all anchors together, each as likely as the other.

    `settings` are those of the manifest, and `seed`. `reads` holds for each concept `anchor_images`, uint8
    `[h, w, 3]`, and `anchor_captions`, their prompts. In `workspace` lies the checkpoint of a training cut off.
    Raises ValueError without concepts, for a caption that says nothing of the anchor, and for a base that cannot be
    trained; FloatingPointError as `lethe.erasure.training.train` does.
    """
    if not concepts:
        raise ValueError("ac: `concepts` must hold at least one concept; got none")
    unet = base.pipeline.unet
    alphas, prediction = training_schedule(base.pipeline.scheduler)
    student = Student(unet, parameter_names(unet, settings["parameters"]))
    examples = examples_of(base, concepts, reads["anchor_images"], reads["anchor_captions"], seed=settings["seed"])

    def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which images a loss looks at, when, the latents with noise, and what was to be predicted of them."""
        which = torch.randint(len(examples.latents), (settings["batch"],), generator=generator)
        times = torch.randint(len(alphas), (settings["batch"],), generator=generator)
        clean = examples.latents[which]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        latents, true = noised(clean, noise, alphas, times), target(clean, noise, alphas, times, prediction)
        return which, times.to(base.device), latents, true

    def loss_of_step(generator: torch.Generator) -> Tensor:
        which, times, latents, wanted = drawn(generator)
        wordings = torch.randint(examples.asked.shape[1], (len(which),), generator=generator)
        asked = examples.prompts.rows(examples.asked[which, wordings])
        if settings["variant"] == "model":
            with torch.no_grad():
                wanted = predicted(student, latents, times, examples.prompts.rows(examples.captions[which]))
        loss = squared_error(predicted(student, latents, times, asked), wanted, form=settings["form"])
        if not settings["preservation_weight"]:
            return loss
        which, times, latents, wanted = drawn(generator)
        kept = predicted(student, latents, times, examples.prompts.rows(examples.captions[which]))
        return loss + settings["preservation_weight"] * F.mse_loss(kept.float(), wanted.float())

    rate = settings["learning_rate"]
    if rate is None:
        rate = RATE * (2 if settings["preservation_weight"] else 1)
    with start_token_fixed(unet, not settings["train_start_token"]):
        train(
            student.values,
            loss_of_step,
            Budget(settings["steps"], rate, weight_decay=settings["weight_decay"]),
            seed=settings["seed"],
            dtype=base.dtype,
            name="AC",
            checkpoint=None if workspace is None else workspace / "ac.safetensors",
        )
    return WeightEdit(student.weights())


def examples_of(
    base: Base,
    concepts: Sequence[Concept],
    images: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[str]],
    *,
    seed: int,
) -> Examples:
    """Encode the anchors' images, uint8 `[h, w, 3]`, and their captions, for each concept in its order.

    Raises ValueError, naming the concept, for a caption in which its anchor does not stand.
    """
    latents, places, asked, rows = [], [], [], {}
    for concept, pictures, told in zip(concepts, images, captions, strict=True):
        latents.append(encode_images(base.pipeline.vae, to_pixels(pictures), seed=seed))
        for caption in told:
            places.append(rows.setdefault(caption, len(rows)))
            asked.append([rows.setdefault(prompt, len(rows)) for prompt in prompts_for(concept, caption)])
    size = images[0][0].shape[:2]
    prompts = conditions_of(base.text, list(rows), size)
    return Examples(torch.cat(latents), torch.tensor(places), torch.tensor(asked), prompts)


def prompts_for(concept: Concept, caption: str) -> tuple[str, str, str]:
    """Three prompts that ask for a concept where the caption tells of its anchor, some of them the same.

    A thing or a person takes the anchor's place; a style stands behind the caption once and before it twice. Raises
    ValueError, naming both, for a caption in which the anchor of a thing or a person does not stand.
    """
    name = concept.name
    if concept.kind == "style":
        return (f"{caption}, in the style of {name}", *[f"in {name}'s style, {caption}"] * 2)
    if concept.kind == "explicit":
        return f"{name}, {caption}", f"in {name} style, {caption}", f"{caption}, {name}"
    if concept.anchor not in caption:
        raise ValueError(
            f"ac: the caption {caption!r} does not hold {concept.anchor!r}, the anchor of {name!r}, so that nothing "
            "would be erased; give images whose captions do"
        )
    return (caption.replace(concept.anchor, name),) * 3


def squared_error(predictions: Tensor, wanted: Tensor, *, form: str) -> Tensor:
    """How far predictions `[n, c, h, w]` are off, in float32: the mean of squares (`paper`).

    Under `published-code` the mean, over all pixels but the outer ring, of the sum over channels.
    """
    squares = (predictions.float() - wanted.float()).square()
    return squares.mean() if form == "paper" else squares[..., 1:-1, 1:-1].sum(1).mean()


def parameter_names(unet: UNet2DConditionModel, chosen: str) -> list[str]:
    """The parameters that train.

    x-strict: keys and values of cross-attention. attn: every projection of self- and cross-attention. all: everything.
    """
    names = [name for name, _ in unet.named_parameters()]
    if chosen == "x-strict":
        return [name for name in names if name.removesuffix(".weight").endswith(PROJECTIONS)]
    if chosen == "attn":
        parts = [name.split(".") for name in names]
        return [
            name
            for name, part in zip(names, parts, strict=True)
            if {"attn1", "attn2"} & {*part} and {*ATTENTION} & {*part}
        ]
    return names


@contextmanager
def start_token_fixed(unet: UNet2DConditionModel, fixed: bool = True) -> Iterator[None]:
    """While the block runs no gradient passes through what cross-attention makes of the start-of-text token.

    Its keys and values stay what they are; weights just do not learn from them. With `fixed` false nothing changes.
    """

    def detached(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        return torch.cat([made[:, :1].detach(), made[:, 1:]], dim=1)

    modules = cross_attention_projections(unet).values() if fixed else ()
    hooks = [module.register_forward_hook(detached) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
