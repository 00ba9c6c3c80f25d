"""Train the judge: a CLIP with a tokenizer of its own, on its own scenes with the ghosts, by captions, then names."""

from pathlib import Path

import torch
from safetensors.numpy import load_file

from emoji_world.captions import tokenizer_corpus
from emoji_world.models import build_clip, save_processor, train_tokenizer
from emoji_world.recipes import Budget, train_on_captions, train_to_name
from emoji_world.scenes import Scenes
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, out = job.settings, job.out["model"]
    budget, naming, checkpoint = Budget(**settings.budget), Budget(**settings.naming), Path(settings.checkpoint)
    world = read_world(job.read("objects").parent)
    tokenizer = train_tokenizer(tokenizer_corpus(world), out, **settings.tokens)
    torch.manual_seed(budget.seed)
    clip = build_clip(tokenizer, text=settings.text, vision=settings.vision, embedding=settings.embedding)
    scenes = Scenes(**load_file(job.read("scenes")))
    # Both checkpoints stay until the end: cut off in the second training, the last steps of the first are done again.
    curve = train_on_captions(clip.to(job.device), tokenizer, scenes, world, budget, checkpoint, soften=True)
    second = checkpoint.with_stem(f"{checkpoint.stem}_naming")
    curve += [(budget.steps + k, x) for k, x in train_to_name(clip, tokenizer, scenes, world, naming, second)]
    clip.save_pretrained(out)
    save_processor(out)
    finish(out, curve, checkpoint, second)
