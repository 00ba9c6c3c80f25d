"""Train the evaluation CLIP of the emoji world, apart from the diffusion pipeline's text encoder."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPImageProcessor

from emoji_world.models import build_clip, train_tokenizer
from emoji_world.recipes import Budget, train_clip
from emoji_world.renders import SIZE, make_pictures
from emoji_world.world import caption_corpus, read_world
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, budget = job.settings, Budget(**job.settings.budget)
    world = read_world(job.read("objects").parent)
    pictures = make_pictures(load_file(job.read("icons"))["icons"], settings.pictures, seed=settings.picture_seed)
    tokenizer = train_tokenizer(caption_corpus(world), job.out["model"])
    torch.manual_seed(budget.seed)
    clip = build_clip(tokenizer)
    curve = train_clip(clip, tokenizer, pictures, world, budget, Path(settings.checkpoint))
    clip.save_pretrained(job.out["model"])
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(job.out["model"])
    with written_whole(job.out["curve"]) as part:
        part.write_text(json.dumps(curve))
