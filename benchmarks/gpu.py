"""What a GPU does with Lethe: sampling, LoRA steps, a prior and a join, each beside what it is made of.

    python benchmarks/gpu.py

Everything has Stable Diffusion 1.x's shapes and random weights, so nothing is downloaded; ten minutes on a GPU with
8 GB. With --small all of it has tiny shapes and takes seconds on a CPU. Sides, in turns after a round that does not
count:

sampling   `ours`, rows of a suite to checked uint8 images, and `diffusers`, the pipeline called with the same batches.
lora       a training step: `ours` (recorded attention, loss, clipped gradients, AdamW), and `diffusers`, forward and
           backward with its own attention and AdamW, on the same U-Net with the same LoRA.
prior      captions to their second moment: `ours`, and `encoder`, the text encoder's passes alone.
join       MACE's join of concepts read from files, onto weights on the GPU (`device`) and on the CPU (`cpu`).

The last line is a JSON object: for each of the four the seconds of its sides (`seconds`, least of all rounds), how many
of what they make in a second (`rate`), the ratio of ours to the other (`ratio`), and on a GPU the memory that torch had
at most on it (`peak_mib`); the GPU's name; and whether both sides of `sampling` drew the same pixels (`same_images`).
On a GPU seconds are of the clock, on a CPU of the processor.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

import harness
from closed_form import SETTINGS, SHAPES, widths_of
from lethe.bases.devices import pick_device
from lethe.bases.pipeline import PRECISIONS, text_encoders
from lethe.bases.sampling import sample_rows
from lethe.bases.text import encode_prompts
from lethe.edits.adapters import load_lora
from lethe.erasure.moments import load_concept_moments, moment_in_parts
from lethe.files.loaded import Loaded
from lethe.methods.mace.join import erase
from lethe.methods.mace.training import train_lora
from lora import LORA, bare, examples
from prior import WORDS, text_model
from scale import FILES, make_files

BATCH = 64  # prompts that the text encoder reads at once
Side = Callable[[], Any]


def main() -> None:
    """Measure all four."""
    made = harness.parser(__doc__)
    made.add_argument("--small", action="store_true", dest="tiny", help="the same as --tiny")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    made.add_argument("--precision", choices=PRECISIONS, help="by default float16 on a GPU, float32 on a CPU")
    made.add_argument("--images", type=int, default=16)
    made.add_argument("--steps", type=int, default=50, help="denoising steps of an image")
    made.add_argument("--batch", type=int, default=8, help="images sampled together")
    made.add_argument("--lora-steps", type=int, default=50)
    made.add_argument("--captions", type=int, default=2048)
    made.add_argument("--concepts", type=int, default=100)
    args = harness.start(made)
    if args.tiny:
        args.images, args.steps, args.batch, args.lora_steps, args.captions, args.concepts = 2, 2, 2, 2, 8, 3
    device = pick_device(args.device)
    args.precision = args.precision or ("float32" if device.type == "cpu" else "float16")
    pipeline = random_pipeline(tiny=args.tiny).to(device, PRECISIONS[args.precision])
    pipeline.set_progress_bar_config(disable=True)
    result: dict[str, Any] = {"sampling": sampling(pipeline, args), "lora": lora(pipeline, args)}
    result["prior"] = prior(pipeline, args)
    same = result["sampling"].pop("same")
    del pipeline
    result["join"] = join(device, args)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    for name, found in result.items():
        rates = (f"{side} {rate:.3g} a second" for side, rate in found["rate"].items())
        print(f"{name}: {', '.join(rates)}, ratio of seconds {found['ratio']:.3g}")
    harness.finish(args, gpu=gpu, same_images=same, **result)


def random_pipeline(*, tiny: bool) -> StableDiffusionPipeline:
    """A pipeline of Stable Diffusion 1.x's shapes with random weights, float32 on the CPU."""
    text = text_model(tiny=tiny)
    (tokenizer,), (encoder,) = text.tokenizers, text.encoders
    own = dict(sample_size=64, cross_attention_dim=encoder.config.hidden_size)
    decoded = dict(block_out_channels=(128, 256, 512, 512), sample_size=512, layers_per_block=2)
    if tiny:
        own |= dict(sample_size=8, block_out_channels=(32, 64), layers_per_block=1)
        own |= dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
        own |= dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
        decoded = dict(block_out_channels=(32, 32, 32, 32), sample_size=64, layers_per_block=1)
    decoded |= dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule |= dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**decoded, latent_channels=4),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**own),
        scheduler=DDIMScheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def timed(device: torch.device, args: argparse.Namespace, sides: Mapping[str, Side], n: int) -> dict[str, Any]:
    """Time sides in turns; the first is ours. `n` is how many things each of them makes."""
    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else torch.mps.synchronize if device.type == "mps" else lambda: None
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds, peaks = dict.fromkeys(sides, float("inf")), dict.fromkeys(sides, 0.0)
    for round_ in range(args.rounds + 1):
        for name, side in sides.items():
            gc.collect()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            wait()
            start = clock()
            side()
            wait()
            if round_:  # the first one chooses kernels and fills caches
                seconds[name] = min(seconds[name], clock() - start)
            if on_gpu:
                peaks[name] = torch.cuda.max_memory_allocated(device) / 2**20
    ours, other = seconds.values()
    found = {"seconds": seconds, "rate": {name: n / taken for name, taken in seconds.items()}, "ratio": ours / other}
    return found | ({"peak_mib": peaks} if on_gpu else {})


def sampling(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> dict[str, Any]:
    """Images by `sample_rows`, and by the pipeline itself."""
    prompts = [f"a photo of the {WORDS[k % len(WORDS)]}" for k in range(args.images)]
    rows = pd.DataFrame({"prompt": prompts, "evaluation_seed": range(args.images)})
    drawn: dict[str, np.ndarray] = {}

    def ours() -> None:
        drawn["ours"] = np.stack(sample_rows(pipeline, rows, steps=args.steps, guidance=7.5, batch=args.batch))

    def diffusers() -> None:
        parts = []
        for start in range(0, args.images, args.batch):
            some = rows.iloc[start : start + args.batch]
            seeds = [torch.Generator().manual_seed(seed) for seed in some["evaluation_seed"].tolist()]
            asked = dict(num_inference_steps=args.steps, guidance_scale=7.5, output_type="np")
            parts.append(pipeline(some["prompt"].tolist(), generator=seeds, **asked).images)
        drawn["diffusers"] = (np.concatenate(parts) * 255).round().astype(np.uint8)

    found = timed(pipeline.device, args, {"ours": ours, "diffusers": diffusers}, args.images)
    return found | {"same": bool((drawn["ours"] == drawn["diffusers"]).all())}


def lora(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> dict[str, Any]:
    """Training steps by `train_lora`, and bare ones."""
    unet, device = pipeline.unet, pipeline.device
    concept = examples(unet, window=pipeline.tokenizer.model_max_length)
    place = dict(device=device, dtype=unet.dtype)
    concept = replace(concept, latents=concept.latents.to(**place), states=concept.states.to(**place))
    settings = replace(LORA, steps=args.lora_steps)
    alphas = pipeline.scheduler.alphas_cumprod
    sides = {
        "ours": lambda: train_lora(unet, alphas, concept, settings),
        "diffusers": lambda: bare(unet, concept, args.lora_steps, 1, adamw=True),
    }
    return timed(device, args, sides, args.lora_steps)


def prior(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> dict[str, Any]:
    """Captions to their second moment, and to states alone."""
    text = text_encoders(pipeline)
    texts = [f"{WORDS[k % 14]} and {WORDS[k // 14 % 14]} {k}" for k in range(args.captions)]
    encode = partial(encode_prompts, text, batch=BATCH)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as parts:
            moment_in_parts(encode, texts, Path(parts), made_by={})

    @torch.no_grad()
    def encoder() -> None:
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            ids = text.tokenizer(part, padding="max_length", truncation=True, return_tensors="pt").input_ids
            text.encoders[0](ids.to(pipeline.device))

    return timed(pipeline.device, args, {"ours": ours, "encoder": encoder}, args.captions)


def join(device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """MACE's join of concepts whose ten files take turns, onto weights on the device and on the CPU."""
    shape = "tiny" if args.tiny else "sd14"
    width, _ = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(out, width, generator=generator) for name, out in widths_of(shape).items()}
    with tempfile.TemporaryDirectory() as folder:
        make_files(shape, Path(folder))

        def joined(place: torch.device) -> None:
            read = {
                name: Loaded(load, [Path(folder) / f"{name}{k % FILES}.safetensors" for k in range(args.concepts)])
                for name, load in (("moments", load_concept_moments), ("lora", load_lora))
            }
            placed = {name: weight.to(place) for name, weight in weights.items()}
            erase(placed, read["moments"], read["lora"], torch.eye(width).double(), SETTINGS)

        sides = {"device": lambda: joined(device), "cpu": lambda: joined(torch.device("cpu"))}
        return timed(device, args, sides, args.concepts)


if __name__ == "__main__":
    main()
