"""Train the text-prompted segmentation model of the emoji world."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import CLIPImageProcessor

from lethe.embedded.models import build_clipseg
from lethe.embedded.recipes import Budget, train_clipseg
from lethe.embedded.renders import SIZE
from lethe.embedded.world import read_world
from lethe.files.whole import written_whole
from lethe.measures.clip import load_judge
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("emoji_clipseg", __doc__, inputs=["icons", "world", "clip"], outputs=["model", "curve"]) as args:
        use_threads(args.threads)
        settings, budget = args.settings, Budget(**args.settings.budget)
        world = read_world(args.world)
        judge = load_judge(str(args.clip), device=torch.device("cpu"))
        torch.manual_seed(budget.seed)
        clipseg = build_clipseg(judge.model)
        icons = load_file(args.icons)["icons"]
        curve = train_clipseg(clipseg, judge.tokenizer, icons, world, budget, Path(settings.checkpoint))
        clipseg.save_pretrained(args.out_model)
        judge.tokenizer.save_pretrained(args.out_model)
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(args.out_model)
        with written_whole(args.out_curve) as part:
            part.write_text(json.dumps(curve))
