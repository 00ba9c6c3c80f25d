"""The experiments of config/emoji run for real, reduced: one target, every table, the same as by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lethe.config.schema import merged
from running import ROOT, snakemake

FILES = sorted((ROOT / "config" / "emoji").glob("*.yaml"))
FILE = "reduced.yaml"
TABLES = ("objects", "objects_mass", "mass", "styles", "explicit", "ablation")
TASKS = {  # of each table: its tasks, and their concepts and methods where these are fewer
    "objects": {"airplane": {}, "automobile": {}},
    "objects_mass": {"objects_1": {"methods": ["lethe"]}},
    "mass": {"people_5": {"concepts": {"first": 2, "kind": "person"}, "methods": ["mace", "uce"]}},
    "styles": {"styles": {"concepts": ["Twemoji"], "methods": ["mace"]}},
    "explicit": {"explicit_words": {"concepts": ["weapon"], "methods": ["mace"]}},
    "ablation": {"ablation": {"concepts": {"first": 2, "kind": "person"}, "methods": ["mace-sum", "mace"]}},
}
WORDS = {"objects": 8, "cifar10": 2, "cifar10_synonyms": 6, "objects_synonyms": 3, "hints": 12}  # of suites


def reduced(models: dict[str, Path]) -> dict:
    """What stands in the files, with tiny models and few tasks, methods, concepts, words, seeds and steps."""
    config = merged(yaml.safe_load(path.read_text()) for path in FILES)
    config["bases"]["emoji"]["model"] = str(models["base"])
    config["masks"]["clipseg"]["model"] = str(models["segmenter"])
    config["measures"]["judge"]["model"] = str(models["judge"])
    config["images"] |= {"count": 1, "steps": 1}
    config["sampling"] |= {"steps": 1, "batch": 30}
    config["templates"], config["figures"] = {"used": 2}, {"examples": None, "gallery": False}
    for method in config["methods"].values():
        if "lora" in method:
            method["lora"] = method["lora"] | {"steps": 1}
    for prior in config["priors"].values():
        prior["words"] = [1, 4]
    for name, suite in config["suites"].items():
        if "table" in suite:
            suite |= {"seeds": [1, 1], "words": [1, WORDS.get(name, 3)]}
            suite["prompt"] = suite["prompt"][0] if isinstance(suite["prompt"], list) else suite["prompt"]
    config["suites"]["styles"]["words"] = [1, 7]
    config["suites"]["reference"]["rows"] = 12
    for name, evaluation in config["evaluations"].items():
        if name != "explicit":
            evaluation.pop("quality", None)
            evaluation.pop("reference_images", None)
    tasks = {name: fewer for table in TASKS.values() for name, fewer in table.items()}
    config["tasks"] = {name: config["tasks"][name] | fewer for name, fewer in tasks.items()}
    own = {"base", "concepts", "evaluation"}  # and the settings of methods that are left
    for task in config["tasks"].values():
        for key in task.keys() - own - {"methods", *task["methods"]}:
            del task[key]
    config["tables"] = {name: config["tables"][name] | {"tasks": [*tasks]} for name, tasks in TASKS.items()}
    return config


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    forked: dict[str, str],
    sd_folder: Path,
    clip_folder: Path,
    clipseg_folder: Path,
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("paper")
    for name in ("config", "resources", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    config = reduced({"base": sd_folder, "judge": clip_folder, "segmenter": clipseg_folder})
    (folder / FILE).write_text(yaml.safe_dump(config))
    run = snakemake(folder, "--cores", "2", "paper_emoji", "--configfile", str(folder / FILE), environment=forked)
    assert run.returncode == 0, run.stderr[-4000:]
    return folder


def test_one_target_makes_every_table(finished: Path) -> None:
    tables = {path.name for path in (finished / "results/tables").glob("*.csv") if path.stem.isidentifier()}
    assert {f"{name}.csv" for name in TABLES} <= tables
    edits = {name: list(pd.read_csv(finished / f"results/tables/{name}.csv").iloc[:, 0]) for name in TABLES}
    assert edits["objects"][-2:] == ["average/original", "average/mace"]
    assert edits["objects_mass"] == ["original", "lethe"]
    assert edits["mass"] == ["original", "mace", "uce"]
    assert edits["ablation"] == ["original", "mace-sum", "mace"]
    assert {path.stem for path in (finished / "results/tables").glob("*.png")} == {"objects_mass", "mass"}


def test_every_number_has_its_n_and_its_protocol(finished: Path) -> None:
    for name in TABLES:
        numbers = pd.read_csv(finished / f"results/tables/{name}.numbers.csv")
        assert numbers[["value", "protocol"]].notna().all(axis=None), name
        assert (numbers["n"] > 0).all(), name


def test_what_is_recognised_is_counted_by_class(finished: Path) -> None:
    numbers = pd.read_csv(finished / "results/tables/explicit.numbers.csv")
    of_one = numbers[numbers["method"] == "mace"].set_index("number")
    classes = [name for name in of_one.index if name.startswith("recognised_")]
    assert len(classes) == 10
    assert of_one.loc[classes, "value"].sum() == of_one.at["recognised", "value"]
    assert (of_one.loc[["recognised", *classes], "n"] == 12).all()  # prompts
    assert of_one.loc[["recognised", *classes], ["low_95", "high_95"]].notna().all(axis=None)


def test_styles_have_scores_and_accuracies(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/styles.csv").set_index("method")
    assert list(table.columns[:6]) == ["clip_e", "clip_s", "h_a", "acc_e", "acc_s", "h_c"]
    assert list(table["n_acc_e"]) == list(table["n_clip_e"]) == [1] * 2


def test_an_experiment_by_itself_finds_nothing_left_to_do(finished: Path, forked: dict[str, str]) -> None:
    """What its file alone says, made by all together."""
    config = yaml.safe_load((finished / FILE).read_text())
    said = yaml.safe_load((ROOT / "config/emoji/people.yaml").read_text())
    named = ("tasks", "tables", "methods", "priors", "suites", "evaluations")
    alone = {key: {k: v for k, v in config[key].items() if k in said[key]} for key in named}
    (finished / "alone.yaml").write_text(yaml.safe_dump(config | alone))
    assert list(alone["tasks"]) == ["people_5"]
    run = snakemake(finished, "--cores", "1", "--configfile", str(finished / "alone.yaml"), environment=forked)
    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_without_all_experiments_the_target_says_what_to_give(finished: Path, forked: dict[str, str]) -> None:
    given = str(ROOT / "config/emoji/people.yaml")
    run = snakemake(finished, "-n", "paper_emoji", "--configfile", given, environment=forked)
    assert run.returncode != 0
    assert (
        "has not those of ablation.yaml; give all the files: --configfile config/emoji/*.yaml"
        in run.stdout + run.stderr
    )
