"""A LoRA training step against the bare forward and backward pass of the same U-Net.

    python benchmarks/lora.py

Sides, in turns, each with a LoRA of rank 1 on the keys and values of cross-attention: `ours`, `train_lora` as the
workflow runs it (noise, recorded attention, loss, clipped gradients, AdamW); `bare`, the same U-Net and batch with
diffusers' own attention, the mean square of the output as loss, no optimiser; `bare_adamw`, the same with AdamW. The
U-Net is the emoji model's at its own size, or with --full one of Stable Diffusion 1.4's shape with random weights and
64 x 64 latents.

A step lasts from one start of the forward pass to the next; the median over all rounds counts. The last line is a JSON
object: `over_forward_backward` (ours / bare), `over_forward_backward_adamw` (ours / bare_adamw), and the seconds of one
step of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

import harness
from lethe.bases.unet import PROJECTIONS
from lethe.methods.mace.training import Examples, LoraSettings, train_lora

PIPELINE = harness.ROOT / "resources/emoji/pipeline"

LORA = LoraSettings(
    rank=1,
    steps=0,
    learning_rate=1e-4,
    batch=1,
    use_pooler=True,
    squared_norm=False,
    timesteps="importance",
    pixels="symmetric",
    max_grad_norm=1.0,
    preservation_weight=0.0,
    seed=0,
)


def main() -> None:
    """Measure."""
    made = harness.parser(__doc__)
    made.add_argument("--steps", type=int, default=10, help="steps of each side in a round")
    made.add_argument("--batch", type=int, default=1)
    made.set_defaults(rounds=8)
    made.add_argument("--full", action="store_true", help="Stable Diffusion 1.4's shape: 3.5 GB, minutes on a CPU")
    args = harness.start(made)
    steps = 2 if args.tiny else args.steps
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PIPELINE, subfolder="unet"))
    if args.full:
        unet = UNet2DConditionModel(cross_attention_dim=768)
    alphas, concept = torch.linspace(0.999, 0.005, 1000), examples(unet, window=77 if args.full else 24)
    settings = replace(LORA, steps=steps, learning_rate=1e-3, batch=args.batch)
    sides = {
        "ours": lambda: len(train_lora(unet, alphas, concept, settings)[0]),
        "bare": lambda: bare(unet, concept, steps, args.batch, adamw=False),
        "bare_adamw": lambda: bare(unet, concept, steps, args.batch, adamw=True),
    }
    trained: dict[str, int] = {}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            with timed_steps(unet) as found:
                trained[name] = side()
            taken[name] += found
    seconds = {
        name: {clock: statistics.median(step[clock] for step in found) for clock in found[0]}
        for name, found in taken.items()
    }
    harness.finish(
        args,
        over_forward_backward=seconds["ours"]["cpu"] / seconds["bare"]["cpu"],
        over_forward_backward_adamw=seconds["ours"]["cpu"] / seconds["bare_adamw"]["cpu"],
        steps_measured=len(taken["ours"]),
        trained_tensors=trained,
        seconds_per_step=seconds,
    )


@contextmanager
def timed_steps(unet: UNet2DConditionModel) -> Iterator[list[dict[str, float]]]:
    """Fill the list with the seconds of each step: from one start of a forward pass to the next."""
    starts, steps, forward = [], [], unet.forward

    def noted(*args: object, **kwargs: object) -> object:
        starts.append({"cpu": time.process_time(), "wall": time.perf_counter()})
        return forward(*args, **kwargs)

    unet.forward = noted
    try:
        yield steps
    finally:
        del unet.forward
    steps += [{clock: after[clock] - before[clock] for clock in after} for before, after in pairwise(starts)]


def bare(unet: UNet2DConditionModel, concept: Examples, steps: int, batch: int, *, adamw: bool) -> int:
    """Forward and backward passes, with an update by AdamW or without; the number of tensors that got a gradient."""
    unet.add_adapter(LoraConfig(r=1, lora_alpha=1, target_modules=list(PROJECTIONS)), "concept")
    unet.requires_grad_(False)
    trained = [p.requires_grad_(True) for name, p in unet.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        output = unet(concept.latents[:batch], torch.full((batch,), 300), concept.states[:batch]).sample
        output.square().mean().backward()
        if adamw:
            optimiser.step()
    reached = sum(p.grad is not None for p in trained)
    unet.unload_lora()
    return reached


def examples(unet: UNet2DConditionModel, *, window: int) -> Examples:
    """Random inputs in the shapes of a concept's: 8 images, 30 prompts, a mask of a quarter of the image."""
    generator = torch.Generator().manual_seed(0)
    size = unet.config.sample_size
    masks = torch.zeros(8, 8 * size, 8 * size, dtype=torch.bool)
    masks[:, 2 * size : 6 * size, 2 * size : 6 * size] = True
    tokens = torch.zeros(30, window, dtype=torch.bool)
    tokens[:, 5:7] = tokens[:, 12:] = True
    return Examples(
        latents=torch.randn(8, unet.config.in_channels, size, size, generator=generator),
        masks=masks,
        states=torch.randn(30, window, unet.config.cross_attention_dim, generator=generator),
        tokens=tokens,
        added={},
    )


if __name__ == "__main__":
    main()
