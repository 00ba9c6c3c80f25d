"""Train the U-Net and the text encoder together and write the whole pipeline."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file

from emoji_world.models import build_pipeline, build_scheduler, load_diffusion
from emoji_world.recipes import Budget, train_diffusion
from emoji_world.scenes import Scenes
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.bases.loading import load_network
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget, checkpoint = job.settings, Budget(**job.settings.budget), Path(job.settings.checkpoint)
    unet, encoder, tokenizer = load_diffusion(job.read("text"), widths=settings.widths, seed=budget.seed)
    curve = train_diffusion(
        unet.to(job.device),
        encoder.to(job.device),
        tokenizer,
        build_scheduler(),
        torch.from_numpy(load_file(job.read("latents"))["latents"]),
        Scenes(**load_file(job.read("scenes"))),
        read_world(job.read("objects").parent),
        budget,
        checkpoint,
        text_rate=settings.text_rate,
        bare=settings.bare,
    )
    vae = load_network(AutoencoderKL, job.read("vae"), dtype=torch.float32)
    build_pipeline(vae, encoder, tokenizer, unet).save_pretrained(job.out["model"])
    finish(job.out["model"], curve, checkpoint)
