"""Train the second judge: a residual network without text, on scenes that only it sees."""

from pathlib import Path

import torch
from safetensors.numpy import load_file

from emoji_world.models import build_classifier, save_processor
from emoji_world.recipes import Budget, train_classifier
from emoji_world.scenes import Scenes
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.steps.job import Job


def run(job: Job) -> None:
    budget, checkpoint, out = Budget(**job.settings.budget), Path(job.settings.checkpoint), job.out["model"]
    names = [one.name for one in read_world(job.read("objects").parent).subjects]
    torch.manual_seed(budget.seed)
    classifier = build_classifier(names, widths=job.settings.widths).to(job.device)
    curve = train_classifier(classifier, Scenes(**load_file(job.read("scenes"))), budget, checkpoint)
    classifier.save_pretrained(out)
    save_processor(out)
    finish(out, curve, checkpoint)
