"""The jobs that make the embedded emoji world, declared as those of `lethe.plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lethe.jobs import Folder, Given, Told, step
from lethe.records.fingerprints import sha256_of

WORLD = "resources/emoji"
MADE = "results/emoji_world"


class EmojiPlan:
    """The jobs of a recipe (`config/emoji_world.yaml`); tables are read from `WORLD`."""

    def __init__(self, recipe: Mapping[str, Any], *, hash_file: Callable[[Path], str] = sha256_of) -> None:
        self.recipe = recipe
        paths = {name: Path(WORLD, f"{name}.tsv") for name in ("objects", "styles")}
        self.world = {name: Given(str(p), hash_file(p) if p.exists() else str(p)) for name, p in paths.items()}

    def training(self, model: str) -> Told:
        """What every training is told; where its checkpoint lies decides nothing."""
        settings = {key: self.recipe[key] for key in ("pictures", "picture_seed", "variation")}
        reads = dict(icons=self.icons()["icons"], **self.world)
        return Told(
            dict(budget=self.recipe[model], **settings),
            reads,
            aside=dict(checkpoint=f"{MADE}/checkpoints/{model}.safetensors"),
        )

    def trained_on(self, model: str, **reads: Any) -> Told:
        """The same for a training that reads another model as well."""
        told = self.training(model)
        return Told(told.settings, {**told.reads, **reads}, told.aside)

    @step("emoji_world.steps.icons", collections=Folder(f"{MADE}/collections"), icons=f"{MADE}/icons.safetensors")
    def icons(self) -> Told:
        return Told(dict(collections=self.recipe["collections"]), self.world)

    @step("emoji_world.steps.vae", model=Folder(f"{MADE}/vae"), curve=f"{MADE}/vae.json")
    def vae(self) -> Told:
        return self.training("vae")

    @step("emoji_world.steps.diffusion", model=Folder(f"{MADE}/pipeline"), curve=f"{MADE}/pipeline.json")
    def diffusion(self) -> Told:
        return self.trained_on("diffusion", vae=self.vae()["model"])

    @step("emoji_world.steps.clip", model=Folder(f"{MADE}/clip"), curve=f"{MADE}/clip.json")
    def clip(self) -> Told:
        return self.training("clip")

    @step("emoji_world.steps.clipseg", model=Folder(f"{MADE}/clipseg"), curve=f"{MADE}/clipseg.json")
    def clipseg(self) -> Told:
        return self.trained_on("clipseg", clip=self.clip()["model"])

    @step("emoji_world.steps.reference", folder=Folder(f"{MADE}/reference"))
    def reference(self) -> Told:
        settings = self.recipe["reference"] | dict(variation=self.recipe["variation"])
        return Told(settings, dict(icons=self.icons()["icons"], **self.world))

    @step("emoji_world.steps.quality", quality=f"{MADE}/quality.json")
    def quality(self) -> Told:
        models = dict(pipeline=self.diffusion()["model"], clip=self.clip()["model"], clipseg=self.clipseg()["model"])
        return Told(self.recipe["quality"], dict(icons=self.icons()["icons"], **models, **self.world))

    @step("emoji_world.steps.release", card=f"{MADE}/release/README.md")
    def release(self) -> Told:
        models = dict(pipeline=self.diffusion()["model"], clip=self.clip()["model"], clipseg=self.clipseg()["model"])
        reads = dict(**models, reference=self.reference(), quality=self.quality(), **self.world)
        return Told(dict(recipe=self.recipe), reads)
