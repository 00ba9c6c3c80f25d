"""AC, ablating concepts (arXiv 2303.13516): a concept's prompt becomes what the prompt of its anchor is.

On latents x_t of images of the anchor, a their caption and c the same caption with the concept in it:

    model-based:   mean (e(x_t, c) - sg e(x_t, a))^2    sg: the U-Net as it is at that step, without gradient
    noise-based:   mean (e(x_t, c) - n)^2               n: the noise that was added, or the velocity
    preservation:  + w mean (e(x'_t, a') - n')^2        on images of the anchor drawn anew

As published for objects, training looks at images shrunk or enlarged (`view_of`): their prompts then begin with words
that say so, and where a shrunk image leaves the frame empty, no error counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
SHRUNK = 0.66  # the share of views that are
SMALL = 0.6  # of the frame: smaller views have prompts that say so
FAR, NEAR = ("a far away ", "very small "), ("zoomed in ", "close up ")


@dataclass(frozen=True)
class Examples:
    """Images of the anchors of all concepts, and their prompts.

    Of n images: `latents` `[n, c, h, w]` scaled, or, where some are `augmented`, None and the `pictures` themselves,
    uint8 `[h, w, 3]`; `captions` `[n]`, which of `texts` is an image's caption; `asked` `[n, 3]`, which ask for the
    concept in its place, one drawn as likely as the other. `prompts` are what the U-Net reads of `texts` for images of
    `size`, height and width.
    """

    pictures: Sequence[np.ndarray]
    augmented: Sequence[bool]
    latents: Tensor | None
    captions: Tensor
    asked: Tensor
    texts: Sequence[str]
    prompts: Conditions
    size: tuple[int, int]


@dataclass(frozen=True)
class Look:
    """What a loss looks at: `which` images, `[b]`, and their `latents` `[b, c, h, w]` without noise.

    `inside` `[b, h, w]`, 1 where errors count and 0 elsewhere; None where all do.  `begins`: what is put before the
    prompts of each.
    """

    which: Tensor
    latents: Tensor
    inside: Tensor | None
    begins: Sequence[str]


@dataclass(frozen=True)
class View:
    """A picture as a training step looks at it.

    `pixels` `[3, h, w]` in [-1, 1]; the `rows` and `columns` of the frame that it takes up; what prompts then `begin`
    with.
    """

    pixels: Tensor
    rows: range
    columns: range
    begin: str = ""


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
    augmented = [is_augmented(concept, settings["augmentation"]) for concept in concepts]
    given = (reads["anchor_images"], reads["anchor_captions"])
    examples = examples_of(base, concepts, *given, augmented=augmented, seed=settings["seed"])
    margin = 0 if settings["form"] == "paper" else 1

    def drawn(generator: torch.Generator, *, whole: bool = False) -> tuple[Look, Tensor, Tensor, Tensor]:
        """What a loss looks at, when, the latents with noise, and what was to be predicted of them."""
        which = torch.randint(len(examples.captions), (settings["batch"],), generator=generator)
        times = torch.randint(len(alphas), (settings["batch"],), generator=generator)
        seen = look(base, examples, which, generator, margin=margin, whole=whole)
        noise = torch.randn(seen.latents.shape, generator=generator).to(seen.latents)
        latents = noised(seen.latents, noise, alphas, times)
        return seen, times.to(base.device), latents, target(seen.latents, noise, alphas, times, prediction)

    def asking(seen: Look, rows: Tensor) -> Conditions:
        """What the U-Net reads of the prompts in `rows`, begun as what is seen asks for."""
        if not any(seen.begins):
            return examples.prompts.rows(rows)
        texts = [begin + examples.texts[row] for begin, row in zip(seen.begins, rows.tolist(), strict=True)]
        return conditions_of(base.text, texts, examples.size)

    def loss_of_step(generator: torch.Generator) -> Tensor:
        seen, times, latents, wanted = drawn(generator)
        wordings = torch.randint(examples.asked.shape[1], (len(seen.which),), generator=generator)
        if settings["variant"] == "model":
            with torch.no_grad():
                wanted = predicted(student, latents, times, asking(seen, examples.captions[seen.which]))
        found = predicted(student, latents, times, asking(seen, examples.asked[seen.which, wordings]))
        loss = squared_error(found, wanted, form=settings["form"], inside=seen.inside)
        if not settings["preservation_weight"]:
            return loss
        seen, times, latents, wanted = drawn(generator, whole=True)
        kept = predicted(student, latents, times, asking(seen, examples.captions[seen.which]))
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
    augmented: Sequence[bool],
    seed: int,
) -> Examples:
    """Encode the anchors' images, uint8 `[h, w, 3]`, and their captions, for each concept in its order.

    Where some concept's images are `augmented`, none are encoded, and all stay in memory.
    Raises ValueError, naming the concept, for a caption in which its anchor does not stand.
    """
    pictures, latents, changing, places, asked, rows = [], [], [], [], [], {}
    for concept, some, told, changes in zip(concepts, images, captions, augmented, strict=True):
        if any(augmented):
            pictures += some
        else:
            latents.append(encode_images(base.pipeline.vae, to_pixels(some), seed=seed))
        size = some[0].shape[:2]
        changing += [changes] * len(told)
        for caption in told:
            places.append(rows.setdefault(caption, len(rows)))
            asked.append([rows.setdefault(prompt, len(rows)) for prompt in prompts_for(concept, caption)])
    return Examples(
        pictures,
        changing,
        torch.cat(latents) if latents else None,
        torch.tensor(places),
        torch.tensor(asked),
        list(rows),
        conditions_of(base.text, list(rows), size),
        size,
    )


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


def squared_error(predictions: Tensor, wanted: Tensor, *, form: str, inside: Tensor | None = None) -> Tensor:
    """How far predictions `[n, c, h, w]` are off, in float32: the mean of squares (`paper`).

    Under `published-code` the mean, over all pixels but the outer ring, of the sum over channels. With `inside`
    `[n, h, w]`, of 0 and 1, each row's mean is over the pixels that are inside, and the ring is left to it; a row
    without any counts 0.
    """
    squares = (predictions.float() - wanted.float()).square()
    if inside is None:
        return squares.mean() if form == "paper" else squares[..., 1:-1, 1:-1].sum(1).mean()
    counted = (squares.mean(1) if form == "paper" else squares.sum(1)) * inside
    return (counted.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).mean()


# Augmentation


def is_augmented(concept: Concept, chosen: str | None) -> bool:
    """Whether training changes a concept's images: as chosen, or as published, for all but styles and explicit content.

    The published code knows no people; they are asked for as objects are, and so count as such.
    """
    return concept.kind in ("object", "person") if chosen is None else chosen == "published"


def look(
    base: Base, examples: Examples, which: Tensor, generator: torch.Generator, *, margin: int, whole: bool
) -> Look:
    """The images of some rows, with views of those that are augmented unless they are to be `whole`.

    margin: the width, in latents, of an image's rim in which errors do not count.
    """
    if examples.latents is not None:
        return Look(which, examples.latents[which], None, [""] * len(which))
    views = [
        view_of(pixels, generator) if examples.augmented[row] and not whole else whole_view(pixels)
        for row, pixels in zip(which.tolist(), to_pixels([examples.pictures[row] for row in which]), strict=True)
    ]
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    latents = encode_images(base.pipeline.vae, torch.stack([view.pixels for view in views]), seed=seed)
    inside = torch.stack([inside_of(view, latents.shape[2:], margin) for view in views]).to(latents.device)
    return Look(which, latents, inside, [view.begin for view in views])


def whole_view(pixels: Tensor) -> View:
    """A picture `[3, h, w]` as it is."""
    return View(pixels, range(pixels.shape[1]), range(pixels.shape[2]))


def view_of(pixels: Tensor, generator: torch.Generator) -> View:
    """A picture `[3, h, w]` shrunk or enlarged, in a frame of its own size.

    Two times in three its height becomes any from a third of the frame's to the whole of it (170 to 512 pixels of 512);
    otherwise it becomes 1.2 to 1.4 times as high (614 to 715 of 512), and the frame shows a part. Prompts begin with
    what the published code puts before them.

    Source: arXiv 2303.13516, published code, of which we know sizes, shares and words. The rest is ours: a shrunk
    picture lies anywhere in the frame, which is grey around it; pictures are resized bilinearly, each pixel from all
    that it covers; prompts begin so for a picture below `SMALL` of the frame and for every enlarged one, with one of
    the two words as likely as the other; those of concept and anchor begin alike.
    """

    def drawn(first: int, behind: int) -> int:
        return int(torch.randint(first, behind, (), generator=generator))

    frame = pixels.shape[1:]
    shrunk = bool(torch.rand((), generator=generator) < SHRUNK)
    height = drawn(frame[0] // 3, frame[0] + 1) if shrunk else drawn(6 * frame[0] // 5, 7 * frame[0] // 5)
    size = (height, round(frame[1] * height / frame[0]))
    resized = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    top, left = (drawn(0, abs(part - side) + 1) for part, side in zip(size, frame, strict=True))
    if not shrunk:
        return replace(
            whole_view(resized[:, top : top + frame[0], left : left + frame[1]]), begin=NEAR[drawn(0, len(NEAR))]
        )
    shown = torch.zeros_like(pixels)
    shown[:, top : top + size[0], left : left + size[1]] = resized
    begin = FAR[drawn(0, len(FAR))] if height < SMALL * frame[0] else ""
    return View(shown, range(top, top + size[0]), range(left, left + size[1]), begin)


def inside_of(view: View, size: Sequence[int], margin: int) -> Tensor:
    """Which latents of `size` lie wholly in a view's picture and `margin` of them from its rim: `[h, w]` of 0 and 1."""
    found, places = torch.zeros(*size), []
    for part, pixels, side in zip((view.rows, view.columns), view.pixels.shape[1:], size, strict=True):
        factor = pixels // side
        places.append(slice(-(-part.start // factor) + margin, max(0, part.stop // factor - margin)))
    found[places[0], places[1]] = 1
    return found


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
