"""Give the pipeline a wide text encoder that keeps names apart, and write it whole."""

from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import nn

from emoji_world.models import build_pipeline, build_text_encoder, widened
from emoji_world.recipes import Budget, train_wide_text
from emoji_world.scenes import Scenes
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.bases.pipeline import load_pipeline
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget, checkpoint = job.settings, Budget(**job.settings.budget), Path(job.settings.checkpoint)
    narrow = load_pipeline(str(job.read("narrow")), None, device=job.device, precision="float32")
    torch.manual_seed(budget.seed)
    encoder = build_text_encoder(narrow.tokenizer, text=settings.text)
    readout = nn.Linear(encoder.config.hidden_size, narrow.text_encoder.config.hidden_size, bias=False)
    curve = train_wide_text(
        encoder.to(job.device),
        readout.to(job.device),
        narrow.text_encoder,
        narrow.tokenizer,
        Scenes(**load_file(job.read("scenes"))),
        read_world(job.read("objects").parent),
        budget,
        checkpoint,
        people=settings.people,
        apart=settings.apart,
    )
    unet = widened(narrow.unet.cpu(), readout.weight.detach().cpu())
    build_pipeline(narrow.vae, encoder, narrow.tokenizer, unet).save_pretrained(job.out["model"])
    finish(job.out["model"], curve, checkpoint)
