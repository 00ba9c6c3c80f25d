"""ESD, erasing concepts by training the U-Net away from what it predicts for them (arXiv 2303.07345, Eq. 7).

    e(x_t, c) -> e*_f - h (e*_c - e*_0)

e* is the U-Net as it was, c the concept, 0 the empty prompt, f what the concept should leave: the empty prompt in the
paper, a wider concept in the authors' code of 2025, which trains that wider concept's prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lethe.bases.base import Base
from lethe.bases.denoising import conditions_of, denoised, predicted
from lethe.bases.schedulers import build_scheduler, config_of, training_schedule
from lethe.bases.unet import PROJECTIONS
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.inputs.concepts import Concept

LAYERS = (nn.Linear, nn.Conv2d)  # what the code of 2025 trains of a network; its norms stay


@dataclass(frozen=True)
class Seen:
    """What a step of the training looks at, `[c, h, w]` each.

    latents: x_t as the scheduler has it, at `time`.  noise: what the picture is drawn from.  output: the student's
    e(x_t), float32, and `target`, what it should be.  concept: e*_c, what the U-Net as it was predicts for the concept.
    """

    latents: Tensor
    time: Tensor
    noise: Tensor
    output: Tensor
    target: Tensor
    concept: Tensor


def squared(seen: Seen) -> Tensor:
    """ESD's loss: the mean square of what is between the student's output and its target."""
    return F.mse_loss(seen.output, seen.target)


def as_drawn(latents: Tensor, noise: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and noise as they are."""
    return latents, noise


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Train the chosen parameters of the U-Net; each step is about one of the concepts, drawn anew.

    `settings` are those of the manifest, and `seed`. In `workspace` lies the checkpoint of a training that was cut off.
    Raises ValueError without concepts, for a choice of parameters that the base has none of, for `erase_from` under the
    paper's form, and for a base that cannot be trained; FloatingPointError as `lethe.erasure.training.train` does.
    """
    return trained(base, concepts, settings, workspace)


def trained(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    workspace: Path | None,
    *,
    name: str = "esd",
    loss: Callable[[Seen], Tensor] = squared,
    varied: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] = as_drawn,
    weight_decay: float = 0.0,
) -> Edit:
    """ESD's training as `erase` does it, with another loss of what a step sees, and other latents.

    `varied(latents, noise, generator)` gives both as the step is to see them. `name` is the method's, for messages.
    Raises as `erase` does.
    """
    if not concepts:
        raise ValueError(f"{name}: `concepts` must hold at least one concept; got none")
    if settings["erase_from"] and settings["form"] != 2025:
        raise ValueError(f"{name}: erase_from belongs to form 2025; leave one of the two out")
    pipeline = base.pipeline
    published = published_settings(settings["form"], settings["parameters"], is_xl(pipeline.unet))
    chosen = {key: value if settings[key] is None else settings[key] for key, value in published.items()}
    training_schedule(pipeline.scheduler)  # refuses a base that has none
    student = Student(pipeline.unet, parameter_names(pipeline.unet, settings["parameters"], settings["form"]))
    scheduler = build_scheduler(config_of(pipeline.scheduler), "ddim")
    scheduler.set_timesteps(settings["sampling_steps"])
    asked = [concept.name for concept in concepts]
    prompts = ["", *asked, *([settings["erase_from"]] if settings["erase_from"] else [])]
    sides = pipeline.unet.config.sample_size
    shape = (1, pipeline.unet.config.in_channels, *((sides, sides) if isinstance(sides, int) else sides))
    conditions = conditions_of(base.text, prompts, [side * pipeline.vae_scale_factor for side in shape[2:]])
    drawing = student if settings["form"] == "paper" else pipeline.unet  # whose pictures the steps look at

    def loss_of_step(generator: torch.Generator) -> Tensor:
        concept = 1 + int(torch.randint(len(asked), (), generator=generator))
        source = len(prompts) - 1 if settings["erase_from"] else concept
        done = int(torch.randint(settings["sampling_steps"], (), generator=generator))
        noise = torch.randn(shape, generator=generator).to(base.device, base.dtype)
        empty, of, leaving = (conditions.row(k) for k in (0, concept, source))
        guidance = chosen["start_guidance"]
        latents, time = denoised(drawing, scheduler, noise, empty.joined(leaving), steps=done, guidance=guidance)
        latents, noise = varied(latents, noise, generator)
        read = scheduler.scale_model_input(latents, time)
        with torch.no_grad():
            # One by one, as the student is asked: in a batch they round otherwise, and Adam makes steps of roundings.
            teacher = [predicted(pipeline.unet, read, time, one)[0].float() for one in (empty, of, leaving)]
        start = teacher[2 if settings["form"] == 2025 else 0]
        target = start - chosen["negative_guidance"] * (teacher[1] - teacher[0])
        output = predicted(student, read, time, leaving)[0].float()
        return loss(Seen(latents[0], time, noise[0], output, target, teacher[1]))

    budget = Budget(
        chosen["steps"], chosen["learning_rate"], optimiser="adam", weight_decay=weight_decay, max_grad_norm=None
    )
    train(
        student.values,
        loss_of_step,
        budget,
        seed=settings["seed"],
        dtype=base.dtype,
        name=name.upper(),
        checkpoint=None if workspace is None else workspace / f"{name}.safetensors",
    )
    return WeightEdit(student.weights())


def published_settings(form: str | int, parameters: str, xl: bool) -> dict[str, float]:
    """What the authors train with under a form: iterations, learning rate, negative guidance, guidance of x_t."""
    if form == "paper":
        return dict(steps=1000, learning_rate=1e-5, negative_guidance=1.0, start_guidance=3.0)
    if not xl:
        return dict(steps=200, learning_rate=5e-5, negative_guidance=2.0, start_guidance=3.0)
    rate = 2e-4 if parameters in ("x", "x-strict") else 1e-5
    return dict(steps=200, learning_rate=rate, negative_guidance=1.0, start_guidance=2.0)


def is_xl(unet: UNet2DConditionModel) -> bool:
    """Whether a U-Net reads pooled states and sizes beside the text, as that of Stable Diffusion XL does."""
    return unet.config.addition_embed_type == "text_time"


def parameter_names(unet: UNet2DConditionModel, chosen: str, form: str | int) -> list[str]:
    """The parameters that train.

    x: cross-attention. x-strict: its keys and values. u: all but cross-attention; under the paper's form without the
    embedding of time and the output layer, under that of 2025, for XL, only what lies in blocks and is no embedding.
    all: everything. Under 2025 norms never train.
    Raises ValueError when the base has none.
    """
    modules = {name: type(module) for name, module in unet.named_modules()}
    names = [name for name, _ in unet.named_parameters()]
    if form == 2025:
        names = [name for name in names if issubclass(modules[name.rpartition(".")[0]], LAYERS)]
    if chosen == "x":
        names = [name for name in names if ".attn2." in name]
    elif chosen == "x-strict":
        names = [name for name in names if name.removesuffix(".weight").endswith(PROJECTIONS)]
    elif chosen == "u":
        names = [name for name in names if ".attn2." not in name]
        if form != 2025:
            outside = ("time_embedding.", "add_embedding.", "conv_norm_out.", "conv_out.")
            names = [name for name in names if not name.startswith(outside)]
        elif is_xl(unet):
            names = [name for name in names if "block" in name and "emb" not in name]
    if not names:
        raise ValueError(f"the base's U-Net has no parameters of the choice {chosen!r}; choose others")
    return names
