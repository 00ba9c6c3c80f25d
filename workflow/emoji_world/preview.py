"""The pipeline as its training stands, in a folder for `lethe sample --base`; the training goes on undisturbed.

    PYTHONPATH=workflow python -m emoji_world.preview --out FOLDER [--made results/emoji_world]

`--made` is the folder of the recipe's results, with text, vae and checkpoints/diffusion.safetensors in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL

from emoji_world.models import build_pipeline, load_diffusion
from emoji_world.plan import MADE
from emoji_world.training import load_averages
from lethe.bases.loading import load_network

RECIPE = Path(__file__).parents[2] / "config" / "emoji_world.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Write the pipeline with the averaged weights of the last checkpoint, and say of which step it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--made", type=Path, default=Path(MADE))
    args = parser.parse_args(arguments)
    settings = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["diffusion"]
    parts = load_diffusion(args.made / "text", widths=settings["widths"], seed=settings["budget"]["seed"])
    unet, encoder, tokenizer = parts
    averages = args.made / "checkpoints" / "diffusion.safetensors"
    step = load_averages(averages, {"unet": unet, "text_encoder": encoder})
    vae = load_network(AutoencoderKL, args.made / "vae", dtype=torch.float32)
    build_pipeline(vae, encoder, tokenizer, unet).save_pretrained(args.out)
    print(f"{args.out}: the pipeline after {step} of {settings['budget']['steps']} steps")


if __name__ == "__main__":
    main()
