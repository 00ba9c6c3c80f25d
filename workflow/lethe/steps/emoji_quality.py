"""Measure the emoji world's models on pictures and seeds they did not learn from."""

import json

import torch
from safetensors.numpy import load_file

from lethe.bases.pipeline import load_pipeline
from lethe.embedded.quality import judge_quality, pipeline_quality, segmenter_quality, vae_quality
from lethe.embedded.renders import make_pictures
from lethe.embedded.world import read_world
from lethe.erasure.masks import load_clipseg
from lethe.files.whole import written_whole
from lethe.measures.clip import load_judge
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step(
        "emoji_quality", __doc__, inputs=["world", "icons", "pipeline", "clip", "clipseg"], outputs=["quality"]
    ) as args:
        use_threads(args.threads)
        settings, world, icons = args.settings, read_world(args.world), load_file(args.icons)["icons"]
        device = torch.device("cpu")
        judge = load_judge(str(args.clip), device=device)
        pictures = make_pictures(icons, settings.pictures, seed=settings.seed)
        pipeline = load_pipeline(
            str(args.pipeline), None, device=device, precision="float32", scheduler=settings.sampling["scheduler"]
        )
        clipseg, tokenizer, _ = load_clipseg(str(args.clipseg), None, device=device)
        quality = {
            **judge_quality(judge, world, pictures),
            **vae_quality(pipeline.vae, judge, world, pictures),
            **segmenter_quality(clipseg, tokenizer, icons, world, settings.scenes, seed=settings.seed),
            **pipeline_quality(pipeline, judge, world, seeds=settings.seeds, sampling=settings.sampling),
        }
        with written_whole(args.out_quality) as part:
            part.write_text(json.dumps(quality, indent=2) + "\n")
