"""Train the evaluation CLIP of the emoji world, apart from the diffusion pipeline's text encoder."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPImageProcessor

from lethe.embedded.models import build_clip, train_tokenizer
from lethe.embedded.recipes import Budget, train_clip
from lethe.embedded.renders import SIZE, make_pictures
from lethe.embedded.world import caption_corpus, read_world
from lethe.files.whole import written_whole
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("emoji_clip", __doc__, inputs=["icons", "world"], outputs=["model", "curve"]) as args:
        use_threads(args.threads)
        settings, budget = args.settings, Budget(**args.settings.budget)
        world = read_world(args.world)
        pictures = make_pictures(load_file(args.icons)["icons"], settings.pictures, seed=settings.picture_seed)
        tokenizer = train_tokenizer(caption_corpus(world), args.out_model)
        torch.manual_seed(budget.seed)
        clip = build_clip(tokenizer)
        curve = train_clip(clip, tokenizer, pictures, world, budget, Path(settings.checkpoint))
        clip.save_pretrained(args.out_model)
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(args.out_model)
        with written_whole(args.out_curve) as part:
            part.write_text(json.dumps(curve))
