"""Make the large emoji world part by part, each resumable, in two lines of work that can run side by side.

    python -m emoji_world.parts --folder FOLDER pipeline   # icons, scenes, autoencoder, latents, U-Net
    python -m emoji_world.parts --folder FOLDER judges     # the text encoder's start, judges, segmenter

A part whose result lies in FOLDER is skipped, one that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.numpy import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetForImageClassification,
)

from emoji_world.captions import tokenizer_corpus
from emoji_world.models import (
    build_classifier,
    build_clip,
    build_clipseg,
    build_scheduler,
    build_unet,
    build_vae,
    text_encoder_of,
    train_tokenizer,
)
from emoji_world.recipes import Budget, encode, train_vae
from emoji_world.renders import SIZE, Pictures, Variation, render_icons
from emoji_world.scene_quality import (
    judges_quality,
    outlines_quality,
    sampler_of,
    samples_quality,
    told_by_classifier,
    told_by_judge,
)
from emoji_world.scene_recipes import train_classifier, train_on_captions, train_scene_diffusion, train_segmenter
from emoji_world.scenes import Mixture, Scenes, make_scenes
from emoji_world.sources import fetch_collections
from emoji_world.training import load_averages
from emoji_world.world import World, read_hints, read_world
from lethe.bases.loading import load_network, load_tokenizer
from lethe.bases.pipeline import load_pipeline
from lethe.measures.clip import load_judge

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Work:
    """Where the parts lie, what they are made from (the world and the folder of its tables) and how."""

    folder: Path
    tables: Path
    world: World
    recipe: dict

    def checkpoint(self, part: str) -> Path:
        """Where a part's training is saved as it goes."""
        return self.folder / "checkpoints" / f"{part}.safetensors"

    def budget(self, part: str) -> Budget:
        """How long a part trains."""
        return Budget(**self.recipe[part]["budget"])


def make_icons(work: Work, out: Path) -> None:
    """Fetch the sets and render every subject in every style."""
    collections = work.folder / "collections"
    if not all((collections / f"{name}.json").exists() for name in work.recipe["collections"]):
        fetch_collections(work.recipe["collections"], collections)
    save_file({"icons": render_icons(work.world, collections)}, out)


def scenes_maker(name: str) -> Callable[[Work, Path], None]:
    """The part that draws one set of scenes, by its section of the recipe."""

    def make(work: Work, out: Path) -> None:
        settings = work.recipe[name]
        scenes = make_scenes(
            work.world,
            load_file(work.folder / "icons.safetensors")["icons"],
            settings["pictures"],
            seed=settings["seed"],
            variation=Variation(**settings["variation"]),
            mixture=Mixture(**settings.get("mixture", {})),
            ghosts=settings["ghosts"],
        )
        save_file(vars(scenes), out)

    return make


def make_vae(work: Work, out: Path) -> None:
    """Train the autoencoder on the pipeline's scenes."""
    scenes = Scenes(**load_file(work.folder / "scenes.safetensors"))
    budget = work.budget("vae")
    torch.manual_seed(budget.seed)
    vae = build_vae(widths=tuple(work.recipe["vae"]["widths"]))
    none = np.zeros(0)
    curve = train_vae(vae, Pictures(scenes.images, none, none, none), budget, work.checkpoint("vae"))
    vae.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def make_latents(work: Work, out: Path) -> None:
    """Encode the pipeline's scenes, scaled, in half precision."""
    vae = load_network(AutoencoderKL, work.folder / "vae", dtype=torch.float32)
    images = load_file(work.folder / "scenes.safetensors")["images"]
    save_file({"latents": (encode(vae, images) * vae.config.scaling_factor).half().numpy()}, out)


def make_text(work: Work, out: Path) -> None:
    """Train the tokenizer, then a CLIP on the pipeline's scenes, of which the text tower starts the text encoder."""
    settings, budget = work.recipe["text"], work.budget("text")
    tokenizer = train_tokenizer(tokenizer_corpus(work.world), out / "tokenizer", **work.recipe["tokens"])
    torch.manual_seed(budget.seed)
    clip = build_clip(tokenizer, text=settings["text"], vision=settings["vision"], embedding=settings["embedding"])
    scenes = Scenes(**load_file(wait_for(work.folder / "scenes.safetensors")))
    curve = train_on_captions(clip, tokenizer, scenes, work.world, budget, work.checkpoint("text"), soften=False)
    text_encoder_of(clip).save_pretrained(out / "text_encoder")
    (out / "curve.json").write_text(json.dumps(curve))


def diffusion_parts(work: Work) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The U-Net and text encoder as their joint training finds them, and the tokenizer."""
    settings = work.recipe["diffusion"]
    text = wait_for(work.folder / "text")
    encoder = load_network(CLIPTextModel, text / "text_encoder", dtype=torch.float32)
    torch.manual_seed(work.budget("diffusion").seed)
    unet = build_unet(widths=tuple(settings["widths"]), text_width=encoder.config.hidden_size)
    return unet, encoder, load_tokenizer(text / "tokenizer", encoder.config)


def make_pipeline(work: Work, out: Path) -> None:
    """Train the U-Net and the text encoder, and put the pipeline together."""
    settings = work.recipe["diffusion"]
    unet, encoder, tokenizer = diffusion_parts(work)
    curve = train_scene_diffusion(
        unet,
        encoder,
        tokenizer,
        build_scheduler(),
        torch.from_numpy(load_file(work.folder / "latents.safetensors")["latents"]),
        Scenes(**load_file(work.folder / "scenes.safetensors")),
        work.world,
        work.budget("diffusion"),
        work.checkpoint("diffusion"),
        text_rate=settings["text_rate"],
        bare=settings["bare"],
    )
    assemble(work, unet, encoder, tokenizer).save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def preview(work: Work) -> tuple[StableDiffusionPipeline, int]:
    """The pipeline as its training stands, and the step it stands at."""
    unet, encoder, tokenizer = diffusion_parts(work)
    step = load_averages(work.checkpoint("diffusion"), {"unet": unet, "text_encoder": encoder})
    return assemble(work, unet, encoder, tokenizer), step


def assemble(
    work: Work, unet: UNet2DConditionModel, encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """A pipeline of these parts and the autoencoder."""
    return StableDiffusionPipeline(
        vae=load_network(AutoencoderKL, work.folder / "vae", dtype=torch.float32),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_judge(work: Work, out: Path) -> None:
    """Train the judge, a CLIP with its own tokenizer, on its own scenes, ghosts among them."""
    settings, budget = work.recipe["judge"], work.budget("judge")
    tokenizer = train_tokenizer(tokenizer_corpus(work.world), out, **work.recipe["tokens"])
    torch.manual_seed(budget.seed)
    clip = build_clip(tokenizer, text=settings["text"], vision=settings["vision"], embedding=settings["embedding"])
    scenes = Scenes(**load_file(work.folder / "judge_scenes.safetensors"))
    curve = train_on_captions(clip, tokenizer, scenes, work.world, budget, work.checkpoint("judge"), soften=True)
    clip.save_pretrained(out)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def make_second_judge(work: Work, out: Path) -> None:
    """Train the second judge, a residual network without text, on scenes that only it sees."""
    settings, budget = work.recipe["second_judge"], work.budget("second_judge")
    torch.manual_seed(budget.seed)
    classifier = build_classifier([one.name for one in work.world.subjects], widths=tuple(settings["widths"]))
    scenes = Scenes(**load_file(work.folder / "second_judge_scenes.safetensors"))
    curve = train_classifier(classifier, scenes, budget, work.checkpoint("second_judge"))
    classifier.save_pretrained(out)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def make_segmenter(work: Work, out: Path) -> None:
    """Train the segmenter's decoder on a frozen copy of the judge."""
    settings, budget = work.recipe["segmenter"], work.budget("segmenter")
    clip = load_network(CLIPModel, work.folder / "judge", dtype=torch.float32)
    tokenizer = load_tokenizer(work.folder / "judge", clip.config.text_config)
    torch.manual_seed(budget.seed)
    segmenter = build_clipseg(clip, reduce=settings["reduce"])
    curve = train_segmenter(
        segmenter,
        tokenizer,
        load_file(work.folder / "icons.safetensors")["icons"],
        work.world,
        budget,
        work.checkpoint("segmenter"),
        variation=Variation(**settings["variation"]),
        mixture=Mixture(**settings["mixture"]),
    )
    segmenter.save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))


def make_quality(work: Work, out: Path) -> None:
    """Measure everything on scenes and seeds that nothing learned from."""
    settings, world = work.recipe["quality"], work.world
    pipeline = load_pipeline(
        str(wait_for(work.folder / "pipeline")),
        None,
        device=torch.device("cpu"),
        precision="float32",
        scheduler=settings["sampling"]["scheduler"],
    )
    judge = load_judge(str(work.folder / "judge"), device=torch.device("cpu"))
    classifier = load_network(ResNetForImageClassification, work.folder / "second_judge", dtype=torch.float32)
    segmenter = load_network(CLIPSegForImageSegmentation, work.folder / "segmenter", dtype=torch.float32)
    tellers = {"judge": told_by_judge(judge, world), "second judge": told_by_classifier(classifier)}
    icons = load_file(work.folder / "icons.safetensors")["icons"]
    made = work.recipe["second_judge_scenes"]
    options = dict(variation=Variation(**made["variation"]), mixture=Mixture(**made["mixture"]), ghosts=True)
    scenes = make_scenes(world, icons, settings["scenes"], seed=settings["seed"], **options)
    drawn = work.recipe["segmenter"]
    sample = sampler_of(pipeline, settings["sampling"])
    quality = {
        **judges_quality(tellers, judge, world, scenes),
        **outlines_quality(
            segmenter,
            judge.tokenizer,
            icons,
            world,
            settings["outlines"],
            seed=settings["seed"],
            variation=Variation(**drawn["variation"]),
            mixture=Mixture(**drawn["mixture"]),
        ),
        **samples_quality(sample, tellers, judge, world, read_hints(work.tables, "test"), seeds=settings["seeds"]),
    }
    out.write_text(json.dumps(quality, indent=2) + "\n")


LINES: dict[str, dict[str, Callable[[Work, Path], None]]] = {
    "pipeline": {
        "icons.safetensors": make_icons,
        "scenes.safetensors": scenes_maker("scenes"),
        "vae": make_vae,
        "latents.safetensors": make_latents,
        "pipeline": make_pipeline,
    },
    "judges": {
        "text": make_text,
        "judge_scenes.safetensors": scenes_maker("judge_scenes"),
        "judge": make_judge,
        "second_judge_scenes.safetensors": scenes_maker("second_judge_scenes"),
        "second_judge": make_second_judge,
        "segmenter": make_segmenter,
        "quality.json": make_quality,
    },
}


def make_line(work: Work, line: str) -> None:
    """Make the parts of a line that are not there yet, in order; each appears whole or not at all."""
    for name, make in LINES[line].items():
        out = work.folder / name
        if out.exists():
            log.info("%s is there", name)
            continue
        log.info("making %s", name)
        part = out.with_name(f"{out.name}.part")
        if part.is_dir():
            shutil.rmtree(part)
        started = time.monotonic()
        make(work, part)
        part.replace(out)
        log.info("made %s in %.0f s", name, time.monotonic() - started)


def wait_for(path: Path) -> Path:
    """Wait until the other line has made `path`."""
    while not path.exists():
        log.info("waiting for %s", path)
        time.sleep(60)
    return path


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process; raise SystemExit when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{path} is locked: this line is already being made") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def main() -> None:
    """Make one line of the world in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", choices=list(LINES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--world", type=Path, default=ROOT / "resources" / "emoji_large")
    parser.add_argument("--recipe", type=Path, default=ROOT / "config" / "emoji_world_large.yaml")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    work = Work(args.folder, args.world, read_world(args.world), yaml.safe_load(args.recipe.read_text()))
    with only_one(args.folder / f"{args.line}.lock"):
        make_line(work, args.line)


if __name__ == "__main__":
    main()
