"""Train the segmenter's decoder on a frozen copy of the judge, on scenes drawn as it goes."""

from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPModel

from emoji_world.models import build_clipseg, save_processor
from emoji_world.recipes import Budget, train_segmenter
from emoji_world.scenes import Mixture, Variation
from emoji_world.training import finish
from emoji_world.world import read_world
from lethe.bases.loading import load_network, load_tokenizer
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, out = job.settings, job.out["model"]
    budget, checkpoint = Budget(**settings.budget), Path(settings.checkpoint)
    clip = load_network(CLIPModel, job.read("judge"), dtype=torch.float32)
    tokenizer = load_tokenizer(job.read("judge"), clip.config.text_config)
    torch.manual_seed(budget.seed)
    segmenter = build_clipseg(clip, reduce=settings.reduce).to(job.device)
    curve = train_segmenter(
        segmenter,
        tokenizer,
        load_file(job.read("icons"))["icons"],
        read_world(job.read("objects").parent),
        budget,
        checkpoint,
        variation=Variation(**settings.variation),
        mixture=Mixture(**settings.mixture),
    )
    segmenter.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_processor(out)
    finish(out, curve, checkpoint)
