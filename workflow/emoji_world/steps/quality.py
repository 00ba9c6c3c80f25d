"""Measure the emoji world's models on scenes and seeds that nothing learned from."""

import json

import torch
from safetensors.numpy import load_file
from transformers import CLIPSegForImageSegmentation, ResNetForImageClassification

from emoji_world.quality import (
    judges_quality,
    outlines_quality,
    sampler_of,
    samples_quality,
    told_by_classifier,
    told_by_judge,
    vae_quality,
)
from emoji_world.scenes import Mixture, Variation, make_scenes
from emoji_world.world import read_hints, read_world
from lethe.bases.loading import load_network
from lethe.bases.pipeline import load_pipeline
from lethe.files.whole import written_whole
from lethe.measures.clip import load_judge
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, tables, device = job.settings, job.read("objects").parent, job.device
    world, icons = read_world(tables), load_file(job.read("icons"))["icons"]
    judge = load_judge(str(job.read("judge")), device=device)
    second = load_network(ResNetForImageClassification, job.read("second_judge"), dtype=torch.float32).to(device)
    segmenter = load_network(CLIPSegForImageSegmentation, job.read("segmenter"), dtype=torch.float32).to(device)
    scheduler = settings.sampling["scheduler"]
    pipeline = load_pipeline(str(job.read("pipeline")), None, device=device, precision="float32", scheduler=scheduler)
    tellers = {"judge": told_by_judge(judge, world), "second judge": told_by_classifier(second)}
    held_out, outlined = (
        dict(variation=Variation(**one["variation"]), mixture=Mixture(**one["mixture"]))
        for one in (settings.held_out, settings.outlined)
    )
    scenes = make_scenes(world, icons, settings.scenes, seed=settings.seed, ghosts=True, **held_out)
    number, sample, hints = settings.outlines, sampler_of(pipeline, settings.sampling), read_hints(tables, "test")
    quality = {
        **judges_quality(tellers, judge, world, scenes),
        **vae_quality(pipeline.vae, tellers["judge"], scenes),
        **outlines_quality(segmenter, judge.tokenizer, icons, world, number, seed=settings.seed, **outlined),
        **samples_quality(sample, tellers, judge, world, hints, seeds=settings.seeds),
    }
    with written_whole(job.out["quality"]) as part:
        part.write_text(json.dumps(quality, indent=2) + "\n")
