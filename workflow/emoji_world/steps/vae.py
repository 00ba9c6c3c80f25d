"""Train the autoencoder of the emoji world."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file

from emoji_world.models import build_vae
from emoji_world.recipes import Budget, train_vae
from emoji_world.renders import make_pictures
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget = job.settings, Budget(**job.settings.budget)
    pictures = make_pictures(load_file(job.read("icons"))["icons"], settings.pictures, seed=settings.picture_seed)
    torch.manual_seed(budget.seed)
    vae = build_vae()
    curve = train_vae(vae, pictures, budget, Path(settings.checkpoint))
    vae.save_pretrained(job.out["model"])
    with written_whole(job.out["curve"]) as part:
        part.write_text(json.dumps(curve))
