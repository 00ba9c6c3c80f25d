"""Measure the emoji world's models on pictures and seeds they did not learn from."""

import json

import torch
from safetensors.numpy import load_file

from emoji_world.quality import judge_quality, pipeline_quality, segmenter_quality, vae_quality
from emoji_world.renders import make_pictures
from emoji_world.world import read_world
from lethe.bases.pipeline import load_pipeline
from lethe.erasure.masks import load_clipseg
from lethe.files.whole import written_whole
from lethe.measures.clip import load_judge
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, world, icons = job.settings, read_world(job.read("objects").parent), load_file(job.read("icons"))["icons"]
    device = torch.device("cpu")
    judge = load_judge(str(job.read("clip")), device=device)
    pictures = make_pictures(icons, settings.pictures, seed=settings.seed)
    pipeline = load_pipeline(
        str(job.read("pipeline")), None, device=device, precision="float32", scheduler=settings.sampling["scheduler"]
    )
    clipseg, tokenizer, _ = load_clipseg(str(job.read("clipseg")), None, device=device)
    quality = {
        **judge_quality(judge, world, pictures),
        **vae_quality(pipeline.vae, judge, world, pictures),
        **segmenter_quality(clipseg, tokenizer, icons, world, settings.scenes, seed=settings.seed),
        **pipeline_quality(pipeline, judge, world, seeds=settings.seeds, sampling=settings.sampling),
    }
    with written_whole(job.out["quality"]) as part:
        part.write_text(json.dumps(quality, indent=2) + "\n")
