"""The configurations of the paper: valid, planned without a network, with the published numbers of images."""

from __future__ import annotations

import re
import socket
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lethe.config.checks import check_config
from lethe.config.planning import check_plan, read_inputs, remarks
from lethe.config.schema import method_of
from lethe.jobs import Job
from lethe.plan import Plan
from lethe.records.estimates import planned_steps
from lethe.tables.styles import table_protocols
from plans import kept_hash
from running import ROOT

FILES = sorted(path.stem for path in (ROOT / "config" / "paper").glob("*.yaml"))
COCO = 30_000
# Images of edits, and of the base as it is. A task with an object draws 200 of each class, and of each of 3 synonyms.
IMAGES = {
    "objects": (10 * 2600, 10 * 200 + 10 * 600),
    "objects_ship": (2600, 2600),
    "celebrities_1": (250 + 2500 + COCO,) * 2,
    "celebrities_5": (250 + 2500 + COCO,) * 2,
    "celebrities_10": (250 + 2500 + COCO,) * 2,
    "celebrities_100": (2500 + 2500 + COCO,) * 2,
    "styles_100": (2500 + 2500 + COCO,) * 2,
    "explicit": (4703 + COCO,) * 2,
    "ablation": (4 * 5000, 5000),
    "people": (2 * (250 + 2500 + COCO) + 2500 + 2500 + COCO, 2 * 250 + 2500 + 2500 + COCO),
}
TABLES = ["objects", "celebrities_1", "celebrities_5", "celebrities_10", "celebrities_100", "styles_100", "explicit"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the repository, without a network."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@cache
def planned(name: str) -> tuple[dict, Plan, list[Job]]:
    """A configuration with all its defaults, its plan where no model is known, and the jobs of a run."""
    path = Path("config", "paper", f"{name}.yaml")
    config = check_config(yaml.safe_load(path.read_text()), files=[path], made=("results/",))
    inputs = read_inputs(config)
    check_plan(config, inputs)
    assert remarks(config, inputs) == []
    plan = Plan(config, inputs, locate=lambda *_: None, hash_file=kept_hash)
    return config, plan, plan.jobs


def rows_of(plan: Plan, job: Job) -> int:
    """How many images a job samples."""
    about, size = job.told.settings["about"], plan.config["sampling"]["shard_size"]
    where, whole = plan.slices[about["suite"], about["shard"]], plan.inputs.fetched.get(about["suite"])
    if whole is None:
        types = plan.inputs.suites[about["suite"]]["type"]
        whole = len(types) if where.types is None else int(types.isin(where.types).sum())
    return min(size, whole - where.number * size)


def images(name: str) -> Counter[str]:
    """Images of edits, and of the base as it is."""
    _, plan, jobs = planned(name)
    found: Counter[str] = Counter()
    for job in jobs:
        if job.step.name == "sample":
            of = "base" if job.told.settings["about"]["edit"] == "original" else "edits"
            found[of] += rows_of(plan, job)
    return found


def test_every_experiment_is_counted_here() -> None:
    assert sorted(IMAGES) == FILES


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_plans_the_published_number_of_images(name: str) -> None:
    edits, base = IMAGES[name]
    assert images(name) == {"edits": edits, "base": base}


def test_all_tables_together_are_the_229_000_images_of_a_method() -> None:
    assert sum(images(name)["edits"] for name in TABLES) == 228_953


def test_what_the_base_drew_is_drawn_once_for_all_experiments() -> None:
    """The same address, and the same digest of how it is made: a run of one goes on from what another left."""
    made: dict[str, set[str]] = {}
    shards: dict[str, set[str]] = {}
    for name in FILES:
        for job in planned(name)[2]:
            if job.step.name == "sample" and job.told.settings["about"]["edit"] == "original":
                (path,) = job.outputs.values()
                made.setdefault(path, set()).add(job.digest)
                shards.setdefault(name, set()).add(path)
    assert all(len(digests) == 1 for digests in made.values())
    of_coco = {path for path in made if "/original/coco_30k/" in path}
    assert len(of_coco) == 120
    assert all(
        of_coco <= paths for name, paths in shards.items() if name not in ("objects", "objects_ship", "ablation")
    )
    assert shards["objects_ship"] < shards["objects"]
    assert shards["ablation"] < shards["celebrities_100"]


def test_edits_are_shared_by_the_files_that_make_them_alike() -> None:
    counts = [(f"celebrities_{count}", "people") for count in (5, 10, 100)]
    for part, whole in (("objects_ship", "objects"), ("celebrities_100", "ablation"), *counts):
        made = [
            {path: job.digest for job in planned(name)[2] for path in job.outputs.values()} for name in (part, whole)
        ]
        edits = {path for path in made[0] if path.endswith((".safetensors", "masks.zip")) and "/priors/" not in path}
        assert edits
        assert all(made[0][path] == made[1][path] for path in edits)


SHARED = ("bases", "sampling", "images", "templates", "seed", "precision", "downloads")


def test_what_the_paper_says_of_all_experiments_stands_alike_in_each() -> None:
    first, _, _ = planned("objects")
    for name in FILES:
        config, _, _ = planned(name)
        assert {key: config[key] for key in SHARED} == {key: first[key] for key in SHARED}
        assert config["measures"]["clip"] == first["measures"]["clip"]
        assert config["priors"]["coco"] == first["priors"]["coco"]
        if name != "styles_100":
            assert config["masks"]["grounded-sam"] == first["masks"]["grounded-sam"]
    assert (first["seed"], first["templates"]["used"]) == (2024, 30)
    drawing = {key: first["sampling"][key] for key in ("scheduler", "steps", "guidance")}
    assert drawing == {"scheduler": "ddim", "steps": 50, "guidance": 7.5}


# By task: anchors, learning rate, steps, both preserve scales, lamb, timesteps, domain prior and its weight
SETTINGS = {
    ("objects", "automobile"): ({"sky"}, 1e-5, 50, 0, 1e2, "importance", None, 0),
    ("objects", "bird"): ({"street"}, 1e-5, 50, 0, 1e1, "importance", None, 0),
    ("objects", "ship"): ({"ground"}, 1e-5, 50, 0, 1e3, "importance", None, 0),
    ("objects_ship", "ship"): ({"ground"}, 1e-5, 50, 0, 1e3, "importance", None, 0),
    ("celebrities_1", "celebrities_1"): ({"a woman"}, 1e-4, 50, 1e-4, 0, "importance", "celebrities", 8e3),
    ("celebrities_5", "celebrities_5"): ({"a person"}, 1e-4, 50, 1e-4, 0, "importance", "celebrities", 5e4),
    ("celebrities_10", "celebrities_10"): ({"a person"}, 1e-4, 50, 1e-4, 0, "importance", "celebrities", 8e4),
    ("celebrities_100", "celebrities_100"): ({"a person"}, 1e-4, 50, 1e-4, 0, "importance", "celebrities", 2e5),
    ("styles_100", "styles_100"): ({"art"}, 1e-4, 50, 1e-4, 0, "importance", "art", 8e4),
    ("explicit", "explicit"): ({"a person wearing clothes"}, 1e-5, 120, 7e-7, 0, "uniform", None, 0),
}


@pytest.mark.parametrize(("name", "task"), SETTINGS)
def test_settings_are_the_published_ones(name: str, task: str) -> None:
    anchors, rate, steps, scale, lamb, timesteps, domain, weight = SETTINGS[name, task]
    config, plan, _ = planned(name)
    mace = method_of(config, task, "mace")
    lora = mace["lora"]
    assert {plan.concepts[slug].anchor for slug in plan.task_slugs(task)} == anchors
    assert (mace["train_preserve_scale"], mace["fuse_preserve_scale"], mace["lamb"]) == (scale, scale, lamb)
    assert (mace["prior"], mace["domain_prior"], mace["preserve_weight"]) == ("coco", domain, weight)
    assert (lora["learning_rate"], lora["steps"], lora["timesteps"]) == (rate, steps, timesteps)
    assert (lora["rank"], lora["batch"], lora["use_pooler"], lora["pixels"]) == (1, 1, True, "imagenet")
    assert (mace["scale_convention"], mace["lora_base"]) == ("published-code", "task")


def test_the_ablation_differs_in_one_thing_each() -> None:
    config, _, _ = planned("ablation")
    mace = config["methods"]["mace"]
    assert mace == planned("celebrities_100")[0]["methods"]["mace"]
    changes = {"mace-refinement": {"fusion": "none"}, "mace-sum": {"fusion": "sum"}}
    changes["mace-uniform"] = {"lora": mace["lora"] | {"timesteps": "uniform"}}
    assert config["tasks"]["celebrities_100"]["methods"] == ["mace", *changes]
    for name, change in changes.items():
        assert config["methods"][name] == mace | change


def test_every_published_table_stands_beside_the_one_that_repeats_it() -> None:
    """And of each of its columns it is said by which protocol, or why that is not known."""
    found = {}
    for name in FILES:
        config, plan, jobs = planned(name)
        for table, chosen in config["tables"].items():
            if (named := chosen["published"]) is None:
                continue
            found[name] = named["table"]
            made = [job for job in jobs if job.step.name == "beside_published"]
            assert [job.outputs["beside"] for job in made] == [f"results/tables/paper/{table}.csv"]
            assert set(made[0].outputs.values()) <= set(plan.targets()[table])
    tables = yaml.safe_load(Path("resources/published/mace-2403.06135.yaml").read_text())["tables"]
    assert set(found.values()) == set(tables)
    counted = dict.fromkeys(("celebrities_1", "celebrities_5", "celebrities_10", "people"), "celebrities")
    alike = {name: name for name in ("objects", "explicit", "ablation", "celebrities_100")}
    assert found == counted | alike | {"styles_100": "styles"}


def test_styles_are_measured_as_published() -> None:
    """Every published number of styles but FID is one of the table's, and by the same protocol."""
    config, plan, _ = planned("styles_100")
    told = table_protocols({}, {"clip": config["measures"]["clip"]["model"]}, ["clip_score"])
    ours = {name: protocol for names, protocol in told.items() for name in names.split(", ")}
    said = plan.beside_published("styles_100").told.settings["published"]["numbers"]
    same = {column: ours.get(of["number"]) == of["protocol"] for column, of in said.items()}
    assert same == {"clip_e": True, "clip_s": True, "h_a": True, "clip_30k": True, "fid_30k": False}


def test_exposed_parts_are_counted_by_what_the_plan_tells_of_their_protocols() -> None:
    """So that other arguments make the table again, and another word about them does not."""
    _, plan, _ = planned("explicit")
    told = plan.table("explicit").told.settings["protocols"]
    assert told["nudenet-class-images@1"]["threshold"] == 0.25
    assert all(set(of) - {"threshold"} == {"classes", "strict", "once"} for of in told.values())
    assert planned("objects")[1].table("objects").told.settings["protocols"] == {}


def test_a_target_that_fills_a_cell_is_one_of_an_experiment_here() -> None:
    tables = yaml.safe_load(Path("resources/published/mace-2403.06135.yaml").read_text())["tables"]
    for count, target in tables["celebrities"]["filled_by"].items():
        name, _, path = target.partition(" (")
        _, plan, _ = planned(Path(path.rstrip(")")).stem)
        assert name in plan.targets()
        assert len(plan.task_names(name)) == int(count)


PEOPLE = ["A portrait of {}", "An image capturing {} at a public event", "An oil painting of {}", "A sketch of {}"]
PEOPLE.append("{} in an official photo")


@pytest.mark.parametrize(("count", "seeds"), [(1, 50), (5, 10), (10, 5), (100, 5)])
def test_people_are_drawn_by_five_prompts_and_seeds_from_one(count: int, seeds: int) -> None:
    config, plan, _ = planned(f"celebrities_{count}")
    erased, kept = (plan.inputs.suites[suite] for suite in (f"celebrities_{count}", "celebrities_kept"))
    names = config["tasks"][f"celebrities_{count}"]["concepts"]
    assert len(names) == count
    wanted = [(name, p.replace("{}", name), seed) for name in names for p in PEOPLE for seed in range(1, seeds + 1)]
    assert list(erased.itertuples(index=False, name=None)) == wanted
    assert kept["type"].nunique() == 100
    assert not set(kept["type"]) & set(planned("celebrities_100")[0]["tasks"]["celebrities_100"]["concepts"])
    assert set(kept.groupby("type").size()) == {25}


def test_a_person_or_style_that_is_erased_is_not_preserved() -> None:
    for name, table in (("celebrities_100", "celebrities"), ("styles_100", "artists")):
        config, plan, _ = planned(name)
        kept = plan.inputs.suites["styles_kept" if table == "artists" else "celebrities_kept"]["type"]
        words = config["priors"]["art" if table == "artists" else "celebrities"]["words"]
        rows = (ROOT / "resources" / "names" / f"{table}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        assert len(rows) == 200
        assert [row.split("\t")[0] for row in rows[words[0] - 1 : words[1]]] == list(kept.unique())


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("celebrities", "ablation"))])
def test_with_the_classifiers_weights_people_are_measured_as_published(name: str) -> None:
    """What stands in comments takes the place of the evaluation by CLIP."""
    lines = Path("config", "paper", f"{name}.yaml").read_text().splitlines()
    (measure,) = (line.replace("# ", "", 1) for line in lines if line.startswith("  # gcd:"))
    (evaluation,) = (line.replace("# ", "", 1) for line in lines if line.startswith(f"  # {name}:"))
    config = yaml.safe_load("\n".join(lines))
    config["measures"] |= yaml.safe_load(measure)
    config["evaluations"] = yaml.safe_load(evaluation)
    assert all(
        table["published"]["table"].startswith(("celebrities", "ablation")) for table in config["tables"].values()
    )
    checked = check_config(config, made=("results/", "resources/giphy"))
    inputs = read_inputs(checked)
    check_plan(checked, inputs)
    plan = Plan(checked, inputs, locate=lambda *_: None, hash_file=kept_hash)
    measured = {path for job in plan.jobs for path in job.outputs.values() if "/measures/" in path}
    assert any(path.endswith(".gcd.parquet") for path in measured)
    before = {path for job in planned(name)[2] for path in job.outputs.values() if path.endswith(".zip")}
    assert {path for job in plan.jobs for path in job.outputs.values() if path.endswith(".zip")} == before


def test_the_page_on_costs_counts_as_plans_do() -> None:
    """docs/paper.md: jobs, images, GPU-hours at one image a second, and bytes of all pixels."""
    found = {}
    for name in FILES:
        steps = planned_steps(planned(name)[2], planned(name)[1].images_of).values()
        jobs, drawn = sum(step.jobs for step in steps), sum(step.images for step in steps)
        found[name] = f"{jobs:,} | {drawn:,} | {drawn / 3600:.1f} | {drawn * 3 * 512 * 512 / 1e9:.1f} GB"
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)\.yaml` \| (.*) \|$", page, re.MULTILINE)) == found
