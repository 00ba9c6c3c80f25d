"""Train the segmenter on scenes drawn as it goes: a copy of the judge by patches, then a decoder on it, frozen."""

from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPModel

from emoji_world.models import build_clipseg, save_processor
from emoji_world.recipes import Budget, train_on_patches, train_segmenter
from emoji_world.scenes import Mixture, Variation
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.bases.loading import load_network, load_tokenizer
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, out = job.settings, job.out["model"]
    budget, by_patches, checkpoint = Budget(**settings.budget), Budget(**settings.patches), Path(settings.checkpoint)
    clip = load_network(CLIPModel, job.read("judge"), dtype=torch.float32)
    tokenizer = load_tokenizer(job.read("judge"), clip.config.text_config)
    icons, world = load_file(job.read("icons"))["icons"], read_world(job.read("objects").parent)
    drawn = dict(variation=Variation(**settings.variation), mixture=Mixture(**settings.mixture))
    # Both checkpoints stay until the end: cut off in the second training, the last steps of the first are done again.
    first = checkpoint.with_stem(f"{checkpoint.stem}_patches")
    curve = train_on_patches(clip.to(job.device), tokenizer, icons, world, by_patches, first, **drawn)
    torch.manual_seed(budget.seed)
    segmenter = build_clipseg(clip).to(job.device)
    seen = train_segmenter(segmenter, tokenizer, icons, world, budget, checkpoint, **drawn)
    curve += [(by_patches.steps + k, x) for k, x in seen]
    segmenter.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_processor(out)
    finish(out, curve, checkpoint, first)
