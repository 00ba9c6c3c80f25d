"""Train the pipeline's tokenizer, then a CLIP on its scenes, of which the text tower starts the text encoder."""

from pathlib import Path

import torch
from safetensors.numpy import load_file

from emoji_world.captions import tokenizer_corpus
from emoji_world.models import build_clip, text_encoder_of, train_tokenizer
from emoji_world.recipes import Budget, train_on_captions
from emoji_world.scenes import Scenes
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, out = job.settings, job.out["model"]
    budget, checkpoint = Budget(**settings.budget), Path(settings.checkpoint)
    world = read_world(job.read("objects").parent)
    tokenizer = train_tokenizer(tokenizer_corpus(world), out / "tokenizer", **settings.tokens)
    torch.manual_seed(budget.seed)
    clip = build_clip(tokenizer, text=settings.text, vision=settings.vision, embedding=settings.embedding)
    scenes = Scenes(**load_file(job.read("scenes")))
    curve = train_on_captions(clip.to(job.device), tokenizer, scenes, world, budget, checkpoint, soften=False)
    text_encoder_of(clip).save_pretrained(out / "text_encoder")
    finish(out, curve, checkpoint)
