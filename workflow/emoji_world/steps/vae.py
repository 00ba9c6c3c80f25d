"""Train the autoencoder on the pipeline's scenes."""

from pathlib import Path

import torch
from safetensors.numpy import load_file

from emoji_world.models import build_vae
from emoji_world.recipes import Budget, train_vae
from emoji_world.training import finish
from lethe.steps.job import Job


def run(job: Job) -> None:
    budget, checkpoint = Budget(**job.settings.budget), Path(job.settings.checkpoint)
    torch.manual_seed(budget.seed)
    vae = build_vae(widths=job.settings.widths).to(job.device)
    curve = train_vae(vae, load_file(job.read("scenes"))["images"], budget, checkpoint)
    vae.save_pretrained(job.out["model"])
    finish(job.out["model"], curve, checkpoint)
