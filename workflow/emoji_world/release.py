"""The folder that ships: models in half precision, the reference set, and a card with measured quality."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPSegForImageSegmentation

from emoji_world.world import World
from lethe.bases.loading import load_network
from lethe.bases.pipeline import load_pipeline
from lethe.edits.export import load_in_float32

LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "MIT": "https://opensource.org/license/mit",
}


def halve(pipeline: Path, clip: Path, clipseg: Path, folder: Path) -> None:
    """Copy the three models into `folder` (pipeline/, clip/, clipseg/) with their weights in float16.

    The pipeline draws as it is loaded, in float32.
    """
    whole = load_pipeline(str(pipeline), None, device=torch.device("cpu"), precision="float16")
    whole.save_pretrained(folder / "pipeline")
    for source, model in ((clip, CLIPModel), (clipseg, CLIPSegForImageSegmentation)):
        shutil.copytree(
            source, folder / source.name, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
        )
        load_network(model, source, dtype=torch.float16).save_pretrained(folder / source.name)
    load_in_float32(folder / "pipeline" / "text_encoder")
    for path in folder.glob("*/**/*.json"):
        forget_origin(path)


def forget_origin(path: Path) -> None:
    """Take the folder of the machine that made a model (`_name_or_path`) out of one of its JSON files."""
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def card(world: World, quality: dict, recipe: dict) -> str:
    """The card of the embedded models, in Markdown: contents, measured quality, recipe, attribution."""
    shares = {name: value for name, value in quality.items() if "percent" in value}
    values = {name: value for name, value in quality.items() if "value" in value}
    lines = [
        "# The emoji world",
        "",
        "A small latent text-to-image model and the models that judge it, trained by this project on open emoji sets, "
        "so that the whole workflow runs offline on a CPU. Made by `snakemake emoji_world`; do not edit by hand.",
        "",
        f"It draws {len(world.things)} objects in {len(world.styles)} styles, and four places "
        "(sky, ground, street, water), as 64x64 images.",
        "",
        "| folder | what it is |",
        "|---|---|",
        "| pipeline | `StableDiffusionPipeline`: autoencoder, U-Net, CLIP text encoder and tokenizer, DDIM |",
        "| clip | `CLIPModel` for evaluation, trained apart from the pipeline |",
        "| clipseg | `CLIPSegForImageSegmentation` for text-prompted masks |",
        "| reference | images and captions that no model learned from, for FID and CLIP score |",
        "| objects.tsv, styles.tsv | the vocabulary: objects with synonyms and categories, styles with their sources |",
        "",
        "## Measured quality",
        "",
        "Shares in percent with 95 % Wilson intervals; every image is new to the model that is judged. Samples are "
        "judged by the evaluation CLIP.",
        "",
        "| what | percent | interval | n |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value['percent']} | {value['interval_95'][0]} to {value['interval_95'][1]} | {value['n']} |"
            for name, value in shares.items()
        ),
        "",
        "| what | value | n |",
        "|---|---|---|",
        *(f"| {name} | {value['value']} | {value['n']} |" for name, value in values.items()),
        "",
        "Objects below 90 percent: "
        + (", ".join(f"{k} {v}" for k, v in quality["per object"].items() if v < 90) or "none")
        + ".",
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(recipe, indent=2, sort_keys=True),
        "```",
        "",
        "## Attribution",
        "",
        "The pictures that these models learned from, and those in `reference/`, are made from:",
        "",
        *(f"- {s.name}: {s.attribution}, [{s.licence}]({LICENCES[s.licence]})" for s in world.styles),
        "",
        "The images in `reference/` adapt OpenMoji, so they are shared under CC-BY-SA-4.0.",
        "",
    ]
    return "\n".join(lines)
