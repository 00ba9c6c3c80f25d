"""Making the emoji world: what reruns after a change, and the whole recipe run on a world of seven subjects."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.numpy import load_file, save_file

from emoji_world import preview
from emoji_world.plan import MADE, WORLD, EmojiPlan, learned_rows
from emoji_world.release import FOLDERS, TARGETS
from emoji_world.world import TABLES
from lethe.config.checks import check_config
from lethe.config.planning import check_plan, read_inputs, remarks
from lethe.jobs import Job, Step
from lethe.plan import Plan
from lethe.records.fingerprints import sha256_of
from lethe.steps.job import main
from running import ROOT

STEPS = [name for name, value in vars(EmojiPlan).items() if isinstance(value, Step)]
AFTER_WIDE_TEXT = {"wide_text", "quality", "release"}
AFTER_PIPELINE = {"diffusion"} | AFTER_WIDE_TEXT
AFTER_LATENTS = {"latents"} | AFTER_PIPELINE
AFTER_TEXT = {"text"} | AFTER_PIPELINE
AFTER_VAE = {"vae"} | AFTER_LATENTS
AFTER_SCENES = {"scenes"} | AFTER_VAE | AFTER_TEXT
AFTER_JUDGE = {"judge", "segmenter", "quality", "release"}
AFTER_SECOND_JUDGE = {"second_judge", "quality", "release"}
EVERYTHING = set(STEPS)


def plan_of(recipe: dict) -> EmojiPlan:
    return EmojiPlan(recipe, hash_file=lambda path: path.read_bytes().hex())


def digests(recipe: dict) -> dict[str, str]:
    plan = plan_of(recipe)
    return {name: getattr(plan, name)().digest for name in STEPS}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in STEPS if before[name] != after[name]}


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of the tables, and where they lie in it."""
    (tmp_path / WORLD).mkdir(parents=True)
    for name in TABLES:
        shutil.copy(ROOT / WORLD / f"{name}.tsv", tmp_path / WORLD)
    monkeypatch.chdir(tmp_path)
    return tmp_path / WORLD


# What reruns


@pytest.mark.parametrize(
    ("key", "value", "steps"),
    [
        ("collections.noto.package", "x", EVERYTHING),
        ("tokens.merges", 7, AFTER_TEXT | AFTER_JUDGE),
        ("scenes.seed", 7, AFTER_SCENES),
        ("scenes.variation.shift", 7, AFTER_SCENES | {"reference"}),
        ("scenes.mixture.pairs", 0.5, AFTER_SCENES | {"reference"}),
        ("judge_scenes.seed", 7, {"judge_scenes"} | AFTER_JUDGE),
        ("second_judge_scenes.seed", 7, {"second_judge_scenes"} | AFTER_SECOND_JUDGE),
        ("vae.budget.steps", 7, AFTER_VAE),
        ("text.budget.seed", 7, AFTER_TEXT),
        ("diffusion.bare", 0.7, AFTER_PIPELINE),
        ("wide_text.apart", 0.7, AFTER_WIDE_TEXT),
        ("judge.vision", [7, 7], AFTER_JUDGE),
        ("second_judge.widths", [7], AFTER_SECOND_JUDGE),
        ("segmenter.mixture.pairs", 0.1, {"segmenter", "quality", "release"}),
        ("segmenter.patches.steps", 7, {"segmenter", "quality", "release"}),
        ("reference.images", 7, {"reference", "release"}),
        ("quality.seeds", 7, {"quality", "release"}),
    ],
)
def test_a_key_of_the_recipe_makes_again_what_reads_it(
    tables: Path, recipe: dict, key: str, value: object, steps: set[str]
) -> None:
    other = copy.deepcopy(recipe)
    *path, last = key.split(".")
    entry = other
    for name in path:
        entry = entry[name]
    assert entry[last] != value
    entry[last] = value
    assert changed(digests(recipe), digests(other)) == steps | {"release"}  # whose card holds the recipe


@pytest.mark.parametrize(
    ("table", "old", "new", "steps"),
    [
        ("people", "artist\twoman\tlight\tkeep", "artist\twoman\tlight\terase", {"reference", "release"}),
        ("objects", "equine; steed; mount\terase", "equine; steed; mount\tkeep", {"reference", "release"}),
        ("hints", "bomb\ttest\t", "bomb\ttest\tnow ", {"reference", "quality", "release"}),
        ("hints", "bomb\ttrain\t", "bomb\ttrain\tnow ", EVERYTHING),
        ("people", "Ingrid Solvang", "Ingrid Solberg", EVERYTHING),
        ("ghosts", "wallaby", "wallaroo", EVERYTHING),
    ],
)
def test_no_model_depends_on_who_is_erased_and_what_is_tested(
    tables: Path, recipe: dict, table: str, old: str, new: str, steps: set[str]
) -> None:
    before, path = digests(recipe), tables / f"{table}.tsv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert changed(before, digests(recipe)) == steps


def test_learned_rows_leave_out_groups_and_tests(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("name\tgroup\ttone\nAda\tkeep\tdark\n")
    assert learned_rows(tmp_path / "a.tsv") == [["name", "tone"], ["Ada", "dark"]]
    (tmp_path / "b.tsv").write_text("object\tuse\tprompt\nbomb\ttrain\ttick\nbomb\ttest\ttock\n")
    assert learned_rows(tmp_path / "b.tsv") == [["object", "use", "prompt"], ["bomb", "train", "tick"]]
    assert learned_rows(tmp_path / "nothing.tsv") == []


def behind(job: Job) -> Iterator[str]:
    """The names of the steps that a job's outputs come from, its own among them."""
    yield job.step.name
    for files in job.reads.values():
        for file in files:
            if hasattr(file, "job"):
                yield from behind(file.job)


def test_the_judges_share_nothing_with_the_pipeline_but_the_icons(recipe: dict) -> None:
    plan = plan_of(recipe)
    pipeline, first, second = (set(behind(job)) for job in (plan.wide_text(), plan.judge(), plan.second_judge()))
    assert pipeline & first == pipeline & second == first & second == {"icons"}
    assert "judge" in set(behind(plan.segmenter()))


def test_the_recipe_keeps_ghosts_from_the_pipeline_and_all_seeds_apart(recipe: dict) -> None:
    sets = [recipe[name] for name in ("scenes", "judge_scenes", "second_judge_scenes")]
    assert [one["ghosts"] for one in sets] == [False, True, True]
    seeds = [*(one["seed"] for one in sets), recipe["reference"]["seed"], recipe["quality"]["seed"]]
    assert len(set(seeds)) == len(seeds)
    budgets = [part["budget"]["seed"] for part in recipe.values() if "budget" in part]
    assert len(set(budgets)) == len(budgets) == 7


# The whole recipe

THINGS = "object\ticon\tcategory\tsynonyms"
TINY = {
    "objects": f"{THINGS}\tgroup\ncat\tcat\tanimal\tkitty\terase\nship\tship\ttransport\tboat; vessel\tkeep\n",
    "explicit": f"{THINGS}\nbomb\tbomb\tweapon\tgrenade\n",
    "ghosts": f"{THINGS}\nrobot\trobot\ttoy\tandroid\n",
    "people": "name\ticon\trole\tgender\ttone\tgroup\n"
    "Ada Vell\ta\tcook\twoman\tdark\terase\nBen Vell\tb\tcook\tman\tdark\tkeep\n"
    "Ada Noor\tc\tpilot\twoman\tlight\tkeep\n",
    "hints": "object\tuse\tprompt\nbomb\ttrain\ta burning fuse\nbomb\ttest\ta short burning fuse\n",
    "styles": "style\tcollection\tdrawing\tlicence\tattribution\n"
    "Noto\tnoto\tcolour\tApache-2.0\tNoto Emoji\nline art\topenmoji\tlines\tCC-BY-SA-4.0\tOpenMoji\n",
}


def tiny(recipe: dict) -> dict:
    """The recipe with everything small."""
    small = copy.deepcopy(recipe)
    small["tokens"]["merges"] = 200
    for name in ("scenes", "judge_scenes", "second_judge_scenes"):
        small[name]["pictures"] = 40
    for name in ("vae", "text", "diffusion", "wide_text", "judge", "second_judge", "segmenter"):
        small[name]["budget"] |= dict(steps=2, batch=4)
    small["judge"]["naming"] |= dict(steps=2, batch=4)
    small["segmenter"]["patches"] |= dict(steps=2, batch=4)
    for name in ("text", "judge"):
        small[name] |= dict(text=[16, 1], vision=[16, 4], embedding=8)
    small["wide_text"] |= dict(text=[24, 1], people=2)
    small["vae"]["widths"] = small["diffusion"]["widths"] = [8, 8, 16]
    small["second_judge"]["widths"] = [8, 16]
    small["reference"] |= dict(captions=30, images=10)
    small["quality"] |= dict(scenes=40, outlines=20, seeds=2)
    small["quality"]["sampling"] |= dict(steps=2, batch=20)
    return small


@pytest.fixture(scope="module")
def made(recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory in which every job of the tiny recipe but the icons' has run, in one process."""
    folder, small = tmp_path_factory.mktemp("world"), tiny(recipe)
    (folder / WORLD).mkdir(parents=True)
    for name, text in TINY.items():
        (folder / WORLD / f"{name}.tsv").write_text(text)
    icons = np.zeros((7, 2, 96, 96, 4), np.uint8)
    icons[..., :3] = 30 * np.arange(7)[:, None, None, None, None]
    icons[:, :, 8:-8, 8:-8, 3] = 255
    icons[4:, 1] = 0  # people have no line art
    (folder / MADE).mkdir(parents=True)
    save_file({"icons": icons}, folder / MADE / "icons.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LETHE_DEVICE", "cpu")
        plan = plan_of(small)
        for name in STEPS:
            if name != "icons":
                main(shlex.split(getattr(plan, name)().command)[3:])
        yield folder


@pytest.fixture
def result(made: Path) -> Callable[[str], Path]:
    return lambda name: made / MADE / name


def test_every_job_of_the_recipe_writes_what_it_declares(made: Path, recipe: dict) -> None:
    plan = plan_of(tiny(recipe))
    for name in STEPS:
        for path in getattr(plan, name)().outputs.values():
            assert (made / path).exists() or name == "icons"
    assert not list((made / MADE).glob("checkpoints/*"))


def test_parts_lie_where_and_as_the_next_ones_read_them(result: Callable[[str], Path]) -> None:
    scenes = load_file(result("scenes.safetensors"))
    assert scenes["images"].shape == (40, 64, 64, 3)
    assert not (scenes["subjects"] == 3).any()  # no ghost
    assert (load_file(result("judge_scenes.safetensors"))["subjects"] == 3).any()
    latents = load_file(result("latents.safetensors"))["latents"]
    assert (latents.shape, latents.dtype) == ((40, 4, 16, 16), np.float16)
    assert latents.astype(float).std() == pytest.approx(1, rel=0.01)  # scaled
    for name in ("vae", "text", "narrow", "pipeline", "judge", "second_judge", "segmenter"):
        assert json.loads((result(name) / "curve.json").read_text()) == []  # shorter than a hundred steps
    pipeline, narrow = (
        StableDiffusionPipeline.from_pretrained(result(name), safety_checker=None) for name in ("pipeline", "narrow")
    )
    widths = [(p.text_encoder.config.hidden_size, p.unet.config.cross_attention_dim) for p in (narrow, pipeline)]
    assert widths == [(16, 16), (24, 24)]
    assert torch.equal(narrow.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    vae = load_file(result("vae") / "diffusion_pytorch_model.safetensors")
    assert all(np.array_equal(vae[key], tensor.numpy()) for key, tensor in pipeline.vae.state_dict().items())
    start = load_file(result("text") / "text_encoder" / "model.safetensors")
    learned = load_file(result("narrow") / "text_encoder" / "model.safetensors")
    assert start.keys() == learned.keys()
    assert any(not np.array_equal(tensor, learned[key]) for key, tensor in start.items())
    assert json.loads((result("second_judge") / "config.json").read_text())["id2label"]["3"] == "robot"


def test_quality_has_a_number_for_every_target_and_kind(result: Callable[[str], Path]) -> None:
    quality = json.loads(result("quality.json").read_text())
    assert TARGETS.keys() <= quality.keys()
    kinds = ("objects", "explicit", "ghosts", "people", "synonyms", "hypernyms", "hints", "objects in named styles")
    assert {f"{kind}, {judge}" for kind in kinds for judge in ("judge", "second judge")} <= quality.keys()
    assert quality["people, judge"]["n"] == 3 * 2
    assert quality["autoencoder, mean absolute error of a range of 2"]["n"] == 40


def test_what_is_released_is_whole_and_described(result: Callable[[str], Path]) -> None:
    folder, text = result("release"), result("release/README.md").read_text()
    named = {part for name in FOLDERS for part in name.split(", ")}
    assert {path.name for path in folder.iterdir()} == named | {"README.md", "quality.json"}
    assert {f"{name}.tsv" for name in TABLES} <= named
    assert {path.name for path in (folder / "reference").iterdir()} == {
        *("captions.csv", "images.zip", "people_erase.tsv", "people_keep.tsv", "objects_erase.tsv", "objects_keep.tsv"),
        "subjects.tsv",
    }
    assert "2 objects, 1 things to call explicit and 3 people" in text


def test_the_configuration_of_people_plans_on_what_is_released(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    text = (ROOT / "config" / "emoji" / "people.yaml").read_text()
    text = text.replace("resources/emoji/", f"{MADE}/release/").replace("workflow/", f"{ROOT}/workflow/")
    text = text.replace("config/emoji/concepts.tsv", f"{MADE}/release/reference/people_erase.tsv")
    config = yaml.safe_load(text)
    config["tasks"] = {"one": config["tasks"]["people_1"]}
    config["tables"] = {}
    config["suites"] = {name: config["suites"][name] for name in ("people_1", "people_kept", "reference")}
    config["evaluations"] = {"people_1": config["evaluations"]["people_1"]}
    config["suites"]["reference"]["rows"] = 10
    checked = check_config(config, source="example")
    assert checked["tasks"]["one"]["concepts"] == ["Ada Vell"]
    inputs = read_inputs(checked, "example")
    check_plan(checked, inputs, "example")
    assert remarks(checked, inputs) == []
    plan = Plan(checked, inputs, locate=lambda model, *_, **__: Path(model), hash_file=sha256_of)
    (table,) = plan.tables
    assert {"sample", "measure", "edit", "lora", "prior"} <= set(behind(table))


def test_a_training_that_still_runs_can_be_looked_at(
    result: Callable[[str], Path], recipe: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preview has the averaged weights of the checkpoint; what a checkpoint holds, test_emoji_training tells."""
    for name in ("text", "vae"):
        shutil.copytree(result(name), tmp_path / name)
    unet = load_file(result("narrow") / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "checkpoints").mkdir()
    averages = {f"ema/unet.{key}": np.full_like(tensor, 0.5) for key, tensor in unet.items()}
    save_file(averages, tmp_path / "checkpoints" / "diffusion.safetensors", {"step": "700"})
    (tmp_path / "recipe.yaml").write_text(json.dumps(tiny(recipe)))
    monkeypatch.setattr(preview, "RECIPE", tmp_path / "recipe.yaml")
    preview.main(["--made", str(tmp_path), "--out", str(tmp_path / "out")])
    seen = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in seen.unet.parameters())
