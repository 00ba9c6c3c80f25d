"""Train the autoencoder of the emoji world."""

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file

from lethe.embedded.models import build_vae
from lethe.embedded.recipes import Budget, train_vae
from lethe.embedded.renders import make_pictures
from lethe.files.whole import written_whole
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("emoji_vae", __doc__, inputs=["icons"], outputs=["model", "curve"]) as args:
        use_threads(args.threads)
        settings, budget = args.settings, Budget(**args.settings.budget)
        pictures = make_pictures(load_file(args.icons)["icons"], settings.pictures, seed=settings.picture_seed)
        torch.manual_seed(budget.seed)
        vae = build_vae()
        curve = train_vae(vae, pictures, budget, Path(settings.checkpoint))
        vae.save_pretrained(args.out_model)
        with written_whole(args.out_curve) as part:
            part.write_text(json.dumps(curve))
