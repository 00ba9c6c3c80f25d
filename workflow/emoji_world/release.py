"""The folder that ships: models in half precision, the reference set, and a card with measured quality."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPSegForImageSegmentation, ResNetForImageClassification

from emoji_world.world import World, kinds_of
from lethe.bases.loading import load_network
from lethe.bases.pipeline import load_pipeline
from lethe.edits.export import load_in_float32

LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "MIT": "https://opensource.org/license/mit",
}
MOST_MB = 60
# What the world was made to reach (in percent, or the value itself), and whether more is better.
TARGETS = {
    "objects, judge": (95, True),
    "synonyms, judge": (90, True),
    "people, judge": (90, True),
    "named styles, judge": (95, True),
    "ghosts, judge": (2, False),
    "judge, objects on held-out scenes": (98, True),
    "judge, people on held-out scenes": (97, True),
    "segmenter, mean intersection over union": (0.75, True),
    "segmenter, the same in line art": (0.75, True),
}
FOLDERS = {
    "pipeline": "`StableDiffusionPipeline`: autoencoder, U-Net, CLIP text encoder and tokenizer, DDIM",
    "clip": "the judge: a `CLIPModel` that shares nothing with the pipeline, trained on scenes of its own",
    "second_judge": "the second judge: `ResNetForImageClassification`, no text, trained on other scenes again",
    "clipseg": "`CLIPSegForImageSegmentation` for text-prompted masks, a decoder on the judge",
    "reference": "new scenes: `captions.csv` (a suite and a general prior) and `images.zip` (the first ones' pictures, "
    "for FID); `people_erase.tsv` and `objects_erase.tsv` (concept tables), `people_keep.tsv` and `objects_keep.tsv` "
    "(column `name`: suites and domain priors of what is kept); `subjects.tsv` (all that the judge tells apart)",
    "objects.tsv, explicit.tsv, ghosts.tsv": "things by name, with icon, category, synonyms; objects with their group",
    "people.tsv": "people by name, with role, gender, skin tone and group (erase or keep, even over the three)",
    "hints.tsv": "prompts that lead to an explicit thing without naming it, to train and to test with",
    "styles.tsv": "styles, with their sources and licences",
}


def halve(pipeline: Path, judge: Path, second_judge: Path, segmenter: Path, folder: Path) -> None:
    """Copy the models into `folder` (pipeline, clip, second_judge, clipseg) with their weights in float16.

    The pipeline draws as it is loaded, in float32.
    """
    whole = load_pipeline(str(pipeline), None, device=torch.device("cpu"), precision="float16")
    whole.save_pretrained(folder / "pipeline")
    for source, name, model in (
        (judge, "clip", CLIPModel),
        (second_judge, "second_judge", ResNetForImageClassification),
        (segmenter, "clipseg", CLIPSegForImageSegmentation),
    ):
        left_out = shutil.ignore_patterns("*.safetensors", "curve.json")
        shutil.copytree(source, folder / name, ignore=left_out, dirs_exist_ok=True)
        load_network(model, source, dtype=torch.float16).save_pretrained(folder / name)
    load_in_float32(folder / "pipeline" / "text_encoder")
    for path in folder.glob("*/**/*.json"):
        forget_origin(path)


def check_size(folder: Path, *, most: float = MOST_MB) -> None:
    """Raise ValueError when all files in a folder together have more than `most` MB."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > most:
        raise ValueError(
            f"{folder}: {size:.1f} MB are more than the {most} that may ship; narrow a model in the recipe"
        )


def forget_origin(path: Path) -> None:
    """Take the folder of the machine that made a model (`_name_or_path`) out of one of its JSON files."""
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def card(world: World, quality: dict, recipe: dict) -> str:
    """The card of the embedded models, in Markdown: contents, measured quality, recipe, attribution."""
    numbers = {kind: len(members) for kind, members in kinds_of(world).items()}
    per_subject = {name: shares for name, shares in quality.items() if name.startswith("per subject, ")}
    measured = {name: value for name, value in quality.items() if name not in per_subject}
    return "\n".join(
        [
            "# The emoji world",
            "",
            "A small latent text-to-image model and the models that judge it, trained by this project on open emoji "
            "sets, so that the whole workflow runs offline on a CPU. Made by `snakemake emoji_world`; do not edit by "
            "hand.",
            "",
            f"It draws {numbers['objects']} objects, {numbers['explicit']} things to call explicit and "
            f"{numbers['people']} people (invented names, a fixed character each) in {len(world.styles)} styles, and "
            f"four places (sky, ground, street, water), as 64x64 images. {numbers['ghosts']} ghosts are known to "
            "judges and tokenizer, and were never shown to the pipeline, neither drawn nor named.",
            "",
            "| folder or table | what it is |",
            "|---|---|",
            *(f"| {name} | {told} |" for name, told in FOLDERS.items()),
            "",
            "## Measured quality",
            "",
            "Percent with 95 % Wilson intervals, or the value itself; every image is new to the model that is judged. "
            "`judge` and `second judge` say who took a sample for what, top-1 among all subjects.",
            "",
            "| what | measured | interval | n | target |",
            "|---|---|---|---|---|",
            *(_measured(name, value) for name, value in measured.items()),
            "",
            *(_weak(name.removeprefix("per subject, "), shares) for name, shares in per_subject.items()),
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
    )


def _measured(name: str, found: dict) -> str:
    """A row of the table of what was measured, its target beside it where there is one."""
    value = found["percent"] if "percent" in found else found["value"]
    low, high = found.get("interval_95", ("", ""))
    target = ""
    if name in TARGETS:
        wanted, more = TARGETS[name]
        reached = value >= wanted if more else value <= wanted
        target = f"at {'least' if more else 'most'} {wanted}: {'reached' if reached else 'missed'}"
    return f"| {name} | {value} | {f'{low} to {high}' if 'interval_95' in found else ''} | {found['n']} | {target} |"


def _weak(judge: str, shares: dict[str, float]) -> str:
    """What a judge recognises least, of subjects asked for by name."""
    weak = ", ".join(f"{name} {value}" for name, value in shares.items() if value < 90) or "none"
    return f"Below 90 percent by the {judge}: {weak}.\n"
