"""Encode the pipeline's scenes: scaled latents in half precision."""

import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file, save_file

from emoji_world.recipes import encode
from lethe.bases.loading import load_network
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    vae = load_network(AutoencoderKL, job.read("vae"), dtype=torch.float32).to(job.device)
    latents = encode(vae, load_file(job.read("scenes"))["images"]) * vae.config.scaling_factor
    with written_whole(job.out["latents"]) as part:
        save_file({"latents": latents.half().numpy()}, part)
