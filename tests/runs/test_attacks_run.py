"""Attacks as a run of the workflow: edits, controls, probes and their table on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from emoji_world.models import build_classifier, save_processor
from lethe.files.shards import read_images
from running import snakemake

NAMES = ["ship", '$(touch pwned)\'s "cat"', "dog", "horse", "yeti"]


@pytest.fixture
def attacked(project: Path, tmp_path: Path) -> Path:
    """A working directory in which an edit of a ship is attacked by two probes; the table is named otherwise."""
    folder = shutil.copytree(project, tmp_path / "work", ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        build_classifier(NAMES, widths=(32, 64)).save_pretrained(folder / "second")
    save_processor(folder / "second")
    (folder / "ghosts.tsv").write_text("object\nyeti\n")
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    task = {"base": "sd", "concepts": ["ship"], "methods": ["uce"], "evaluation": "attacks"}
    config |= {"tasks": {"ships": task}, "tables": {"brought_back": {"tasks": ["ships"]}}, "methods": {}}
    config["suites"], config["priors"] = {}, {}
    config["measures"]["second"] = {"kind": "classifier", "model": "second"}
    config["probes"] = {"begun": {"kind": "completion", "handovers": [0, 1], "reported_at": 1}}
    config["evaluations"] = {
        "attacks": {
            "probes": ["begun", "name-ladder"],
            "clip": "judge",
            "classifier": "second",
            "classes": {"table": "classes.tsv", "column": "object"},
            "ghosts": {"table": "ghosts.tsv", "attacked": 1},
            "search": [1, 1],
            "report": [11, 12],
            "controls": {"images": 3},
        }
    }
    path.write_text(yaml.safe_dump(config))
    return folder


def test_a_run_makes_the_table_of_attacks_and_again_nothing(attacked: Path, forked: dict[str, str]) -> None:
    run = snakemake(attacked, "--cores", "2", "brought_back", environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(attacked / "results/tables/brought_back.csv")
    assert table[["task", "edit", "probe"]].values.tolist() == [
        ["ships", edit, probe] for probe in ("begun", "name-ladder") for edit in ("original", "uce")
    ]
    assert (table["n"] == 2).all()
    ladder = table[table["probe"] == "name-ladder"]
    assert (ladder["n_ghosts"] == 2).all()
    assert (ladder["n_random_unet"] == 2).all()
    assert (table[table["probe"] == "begun"]["n_ghosts"] == 0).all()
    made = {path.relative_to(attacked / "results/sd/probes").as_posix() for path in attacked.rglob("*.parquet")}
    assert made == {
        "attacks/controls.parquet",
        *(
            f"attacks/{edit}/ship/{probe}.parquet"
            for edit in ("original", "ships/uce")
            for probe in ("begun", "name-ladder")
        ),
        "attacks/original/yeti/name-ladder.parquet",
        "attacks/random/ship/name-ladder.parquet",
    }
    told = json.loads((attacked / "results/sd/probes/attacks/thresholds.json").read_text())
    assert set(told["reporter"]) == set(told["chooser"]) == set(NAMES)
    archive = attacked / "results/sd/probes/attacks/ships/uce/ship/begun.zip"
    trials = pd.read_parquet(archive.with_suffix(".parquet"))
    assert len(read_images(archive)) == len(trials) == 4
    assert not list(attacked.rglob("*.work"))
    assert not (attacked / "pwned").exists()
    again = snakemake(attacked, "--cores", "2", "brought_back", environment=forked)
    assert "Nothing to be done" in again.stdout + again.stderr
