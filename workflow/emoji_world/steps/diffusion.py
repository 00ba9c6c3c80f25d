"""Train the U-Net and text encoder of the emoji world and write the whole pipeline."""

import json
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.numpy import load_file

from emoji_world.models import build_scheduler, build_text_encoder, build_unet, train_tokenizer
from emoji_world.recipes import Budget, encode, train_diffusion
from emoji_world.renders import Variation, make_pictures
from emoji_world.world import caption_corpus, read_world
from lethe.bases.loading import load_network
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget = job.settings, Budget(**job.settings.budget)
    world = read_world(job.read("objects").parent)
    pictures = make_pictures(
        load_file(job.read("icons"))["icons"],
        settings.pictures,
        seed=settings.picture_seed,
        variation=Variation(**settings.variation),
    )
    vae = load_network(AutoencoderKL, job.read("vae"), dtype=torch.float32)
    latents = encode(vae, pictures.images) * vae.config.scaling_factor
    logging.info("encoded %d pictures", len(latents))
    tokenizer = train_tokenizer(caption_corpus(world), job.out["model"] / "tokenizer")
    torch.manual_seed(budget.seed)
    unet, text_encoder, scheduler = build_unet(), build_text_encoder(tokenizer), build_scheduler()
    curve = train_diffusion(
        unet, text_encoder, tokenizer, scheduler, latents, pictures, world, budget, Path(settings.checkpoint)
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(job.out["model"])
    with written_whole(job.out["curve"]) as part:
        part.write_text(json.dumps(curve))
