"""The gate of the house: a plug-in of any kind is two files, found by name; nothing else is touched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from attacked import attacked_project
from running import ROOT, snakemake

GUIDE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.+?)```", GUIDE, re.DOTALL))
PROBES = yaml.safe_load(re.search(r"<!-- configuration of an attack -->\n```yaml\n(.+?)```", GUIDE, re.DOTALL)[1])
SAID = [yaml.safe_load(text) for text in re.findall(r"<!-- configuration -->\n```yaml\n(.+?)```", GUIDE, re.DOTALL)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the eight files of docs/add-a-method.md in it."""
    assert len(FILES) == 8
    folder = tmp_path_factory.mktemp("clone")
    for name in ("workflow", "profiles", "envs", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    for name, text in FILES.items():
        path = folder / "workflow" / "lethe" / name
        assert not path.exists()
        path.write_text(text)
    return folder


@pytest.fixture
def configured(project: Path, tmp_path: Path) -> Path:
    """A working directory whose task names the new method, measure and table."""
    folder = shutil.copytree(project, tmp_path / "work", ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    task = {"base": "sd", "concepts": ["ship"], "methods": ["dimming", "darker"], "evaluation": "light"}
    config |= {
        "tasks": {"ships": task, "again": task | {"methods": ["darker"], "darker": {"share": 0.9}}},
        **SAID[0],
        **SAID[1],
        "tables": {"both": {"tasks": ["ships", "again"]}},
        "figures": {"examples": None},
    }
    config["suites"] = {"synonyms": config["suites"]["synonyms"]}
    path.write_text(yaml.safe_dump(config))
    return folder


def test_dummy_plugins_give_cells_without_an_edit_to_any_file(
    clone: Path, configured: Path, forked: dict[str, str]
) -> None:
    run = snakemake(configured, "--cores", "2", rules=clone / "Snakefile", environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [path.name for path in sorted((configured / "results/tables").iterdir())] == [
        "both.csv",
        "both.images.csv",
        "both.json",
        "both.numbers.csv",
        "both_by_concept.csv",
    ]
    table = pd.read_csv(configured / "results/tables/both.csv").set_index("edit")
    assert list(table.index) == ["ships/original", "ships/dimming", "ships/darker", "again/original", "again/darker"]
    measures = {path: pd.read_parquet(path) for path in (configured / "results/sd/measures").rglob("*.parquet")}
    everything = pd.concat(measures.values())
    assert set(everything["measure"]) == {"green"}
    assert len(everything["shard"].unique()) == 1  # both tasks share the shard of the base as it is
    for name, edit in zip(
        table.index, ["original", "ships/dimming", "ships/darker", "original", "again/darker"], strict=True
    ):
        shown = everything[everything["edit"] == edit]["brightness"]
        assert table.loc[name, "brightness"] == pytest.approx(shown.mean(), abs=0.005)
        assert table.loc[name, "n_brightness"] == len(shown) == 4
    assert table["brightness"].nunique() == 4
    assert {path.name for path in (configured / "results/sd/edits").rglob("*.safetensors")} == {
        "dimming.safetensors",
        "darker.safetensors",
    }
    again = snakemake(configured, "--cores", "2", rules=clone / "Snakefile", environment=forked)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_manifest_gives_settings_their_check_and_default(
    clone: Path, configured: Path, forked: dict[str, str]
) -> None:
    path = configured / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["methods"]["darker"]["share"] = 2
    path.write_text(yaml.safe_dump(config))
    run = snakemake(configured, "-n", "--cores", "1", rules=clone / "Snakefile", environment=forked)
    assert run.returncode != 0
    assert "methods.darker.share must be a number between 0 and 1, both excluded; got 2" in run.stdout + run.stderr


def test_a_dummy_probe_gives_its_rows_and_their_controls(
    clone: Path, project: Path, tmp_path: Path, forked: dict[str, str]
) -> None:
    folder = attacked_project(project, tmp_path / "work", PROBES["probes"], ["other-words"])
    run = snakemake(folder, "--cores", "2", "brought_back", rules=clone / "Snakefile", environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(folder / "results/tables/brought_back.csv")
    assert table[["task", "edit", "probe"]].values.tolist() == [
        ["ships", edit, "other-words"] for edit in ("original", "uce")
    ]
    assert (table[["n", "n_ghosts", "n_random_unet"]].values == [2, 2, 0]).all()
    prompts = pd.read_csv(folder / "results/tables/brought_back_by_concept.csv")["prompt"]
    assert set(prompts) <= {f"{whose} {thing}" for whose in ("my", "your") for thing in ("ship", "yeti")}
