"""Train the text-prompted segmentation model of the emoji world."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPImageProcessor

from emoji_world.models import build_clipseg
from emoji_world.recipes import Budget, train_clipseg
from emoji_world.renders import SIZE
from emoji_world.world import read_world
from lethe.files.whole import written_whole
from lethe.measures.clip import load_judge
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget = job.settings, Budget(**job.settings.budget)
    world = read_world(job.read("objects").parent)
    judge = load_judge(str(job.read("clip")), device=torch.device("cpu"))
    torch.manual_seed(budget.seed)
    clipseg = build_clipseg(judge.model)
    icons = load_file(job.read("icons"))["icons"]
    curve = train_clipseg(clipseg, judge.tokenizer, icons, world, budget, Path(settings.checkpoint))
    clipseg.save_pretrained(job.out["model"])
    judge.tokenizer.save_pretrained(job.out["model"])
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(job.out["model"])
    with written_whole(job.out["curve"]) as part:
        part.write_text(json.dumps(curve))
