"""The jobs that make the embedded emoji world, declared as those of `lethe.plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emoji_world.world import TABLES
from lethe.jobs import Folder, Given, Told, step
from lethe.records.fingerprints import sha256_of

WORLD = "resources/emoji"
MADE = "results/emoji_world"


class EmojiPlan:
    """The jobs of a recipe (`config/emoji_world.yaml`); tables are read from `WORLD`.

    A training that was cut off goes on from its checkpoint in `MADE`/checkpoints, and ends with the bytes that it would
    have had; the checkpoint goes when the model is there. One with other steps, another rate or seed is refused. After
    any other change to what is under way, delete it.
    """

    def __init__(self, recipe: Mapping[str, Any], *, hash_file: Callable[[Path], str] = sha256_of) -> None:
        self.recipe = recipe
        paths = {name: Path(WORLD, f"{name}.tsv") for name in TABLES}
        self.tables = {name: Given(str(p), hash_file(p) if p.exists() else str(p)) for name, p in paths.items()}
        # No model depends on who is erased and who is kept, nor on the prompts that the hints are tested with.
        self.world = self.tables | {
            name: Given(str(paths[name]), learned_rows(paths[name])) for name in ("objects", "people", "hints")
        }

    def trained(self, model: str, *shared: str, **reads: Any) -> Told:
        """What a training is told: its section of the recipe, and `shared` ones; where its checkpoint lies is aside."""
        settings = self.recipe[model] | {name: self.recipe[name] for name in shared}
        return Told(settings, reads, dict(checkpoint=f"{MADE}/checkpoints/{model}.safetensors"))

    def drawn(self, name: str) -> Told:
        """What the drawing of a set of scenes is told."""
        return Told(self.recipe[name], dict(icons=self.icons()["icons"], **self.world))

    def judges(self) -> dict[str, Any]:
        """The models that judge, with the pipeline that they judge."""
        steps = dict(
            pipeline=self.wide_text, judge=self.judge, second_judge=self.second_judge, segmenter=self.segmenter
        )
        return {name: made()["model"] for name, made in steps.items()}

    @step("emoji_world.steps.icons", collections=Folder(f"{MADE}/collections"), icons=f"{MADE}/icons.safetensors")
    def icons(self) -> Told:
        return Told(dict(collections=self.recipe["collections"]), self.world)

    @step("emoji_world.steps.scenes", scenes=f"{MADE}/scenes.safetensors")
    def scenes(self) -> Told:
        return self.drawn("scenes")

    @step("emoji_world.steps.scenes", scenes=f"{MADE}/judge_scenes.safetensors")
    def judge_scenes(self) -> Told:
        return self.drawn("judge_scenes")

    @step("emoji_world.steps.scenes", scenes=f"{MADE}/second_judge_scenes.safetensors")
    def second_judge_scenes(self) -> Told:
        return self.drawn("second_judge_scenes")

    @step("emoji_world.steps.vae", model=Folder(f"{MADE}/vae"))
    def vae(self) -> Told:
        return self.trained("vae", scenes=self.scenes())

    @step("emoji_world.steps.latents", latents=f"{MADE}/latents.safetensors")
    def latents(self) -> Told:
        return Told({}, dict(vae=self.vae(), scenes=self.scenes()))

    @step("emoji_world.steps.text", model=Folder(f"{MADE}/text"))
    def text(self) -> Told:
        return self.trained("text", "tokens", scenes=self.scenes(), **self.world)

    @step("emoji_world.steps.diffusion", model=Folder(f"{MADE}/narrow"))
    def diffusion(self) -> Told:
        made = dict(text=self.text(), vae=self.vae(), latents=self.latents(), scenes=self.scenes())
        return self.trained("diffusion", **made, **self.world)

    @step("emoji_world.steps.wide_text", model=Folder(f"{MADE}/pipeline"))
    def wide_text(self) -> Told:
        return self.trained("wide_text", narrow=self.diffusion(), scenes=self.scenes(), **self.world)

    @step("emoji_world.steps.judge", model=Folder(f"{MADE}/judge"))
    def judge(self) -> Told:
        return self.trained("judge", "tokens", scenes=self.judge_scenes(), **self.world)

    @step("emoji_world.steps.second_judge", model=Folder(f"{MADE}/second_judge"))
    def second_judge(self) -> Told:
        return self.trained("second_judge", scenes=self.second_judge_scenes(), **self.world)

    @step("emoji_world.steps.segmenter", model=Folder(f"{MADE}/segmenter"))
    def segmenter(self) -> Told:
        return self.trained("segmenter", judge=self.judge(), icons=self.icons()["icons"], **self.world)

    @step("emoji_world.steps.reference", folder=Folder(f"{MADE}/reference"))
    def reference(self) -> Told:
        settings = dict(variation=self.recipe["scenes"]["variation"], mixture=self.recipe["scenes"]["mixture"])
        return Told(self.recipe["reference"] | settings, dict(icons=self.icons()["icons"], **self.tables))

    @step("emoji_world.steps.quality", quality=f"{MADE}/quality.json")
    def quality(self) -> Told:
        drawn = {
            name: {key: self.recipe[part][key] for key in ("variation", "mixture")}
            for name, part in (("held_out", "second_judge_scenes"), ("outlined", "segmenter"))
        }
        reads = dict(icons=self.icons()["icons"], **self.judges(), **self.world | {"hints": self.tables["hints"]})
        return Told(self.recipe["quality"] | drawn, reads)

    @step("emoji_world.steps.release", card=f"{MADE}/release/README.md")
    def release(self) -> Told:
        reads = dict(**self.judges(), reference=self.reference(), quality=self.quality(), **self.tables)
        return Told(dict(recipe=self.recipe), reads)


def learned_rows(path: Path) -> list[list[str]]:
    """The lines of a table that models learn from: without the column `group`, and hints for training alone."""
    if not path.exists():
        return []
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [place for place, column in enumerate(lines[0]) if column != "group"]
    use = lines[0].index("use") if "use" in lines[0] else None
    return [[line[place] for place in kept] for line in lines if use is None or line[use] != "test"]
