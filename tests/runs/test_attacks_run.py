"""Attacks as a run of the workflow: edits, controls, probes and their table on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attacked import RUN_NAMES, attacked_project
from lethe.files.shards import read_images, read_rows
from lethe.records.traces import trace
from running import snakemake

ATTACKS = ("begun", "name-ladder", "relearning", "vocabulary-sweep")
CONTROLLED = ("name-ladder", "vocabulary-sweep")
WORDS_OF = {"original": ["original/ship", "original/yeti"], "random": ["random/ship"], "ships/uce": ["ships/uce/ship"]}


@pytest.fixture
def attacked(project: Path, tmp_path: Path) -> Path:
    """A working directory in which an edit of a ship is attacked by some probes; the table is named otherwise."""
    probes = {
        "begun": {"kind": "completion", "handovers": [0, 1], "reported_at": 1},
        "side-effects": {"near": 1, "far": 1, "rest": 1, "seeds": 2},
        "relearning": {"images": 2, "steps": [0, 1], "batch": 2, "reported_at": 1},
        "vocabulary-sweep": {"tokens": 3, "steps": 1, "kept": 1},
    }
    return attacked_project(project, tmp_path / "work", probes, [*ATTACKS, "side-effects"])


def test_a_run_makes_the_table_of_attacks_and_again_nothing(attacked: Path, forked: dict[str, str]) -> None:
    run = snakemake(attacked, "--cores", "2", "brought_back", environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    table = pd.read_csv(attacked / "results/tables/brought_back.csv")
    assert table[["task", "edit", "probe"]].values.tolist() == [
        ["ships", edit, probe] for probe in ATTACKS for edit in ("original", "uce")
    ]
    assert (table["n"] == 2).all()
    controlled = table[table["probe"].isin(CONTROLLED)]
    assert (controlled["n_ghosts"] == 2).all()
    assert (controlled["n_random_unet"] == 2).all()
    assert (table[table["probe"] == "begun"]["n_ghosts"] == 0).all()
    made = {path.relative_to(attacked / "results/sd/probes").as_posix() for path in attacked.rglob("*.parquet")}
    assert made == {
        "attacks/controls.parquet",
        *(
            f"attacks/{edit}/ship/{probe}.parquet"
            for edit in ("original", "ships/uce")
            for probe in (*ATTACKS, "side-effects")
        ),
        *(f"attacks/{place}/{probe}.parquet" for place in ("original/yeti", "random/ship") for probe in CONTROLLED),
    }
    words_are_drawn_once(attacked)
    told = json.loads((attacked / "results/sd/probes/attacks/thresholds.json").read_text())
    assert set(told["reporter"]) == set(told["chooser"]) == set(RUN_NAMES)
    archive = attacked / "results/sd/probes/attacks/ships/uce/ship/begun.zip"
    trials = pd.read_parquet(archive.with_suffix(".parquet"))
    assert len(read_images(archive)) == len(trials) == 4
    assert not list(attacked.rglob("*.work"))
    assert not (attacked / "pwned").exists()
    for name in ("brought_back", "relearning"):
        with Image.open(attacked / f"results/figures/ships/{name}.png") as picture:
            assert picture.format == "PNG"
    trace_is_of_one_attack(attacked, table)
    effects = pd.read_csv(attacked / "results/tables/brought_back_side_effects.csv").set_index("edit")
    assert list(effects.index) == ["original", "uce"]
    for share in ("near_kept", "far_kept", "rest_kept", "concept_drawn"):
        assert (effects[f"{share}_n"] == 2).all()
    assert effects.loc["original", "drift"] == 0
    assert (effects["floor"] < effects["ceiling"]).all()
    again = snakemake(attacked, "--cores", "2", "brought_back", environment=forked)
    assert "Nothing to be done" in again.stdout + again.stderr


def words_are_drawn_once(folder: Path) -> None:
    """For the concept and the ghost alike, by the edit, the base, and random weights, which draw otherwise."""
    drawn = {edit: folder / f"results/sd/words/attacks/{edit}/vocabulary-sweep.zip" for edit in WORDS_OF}
    assert set((folder / "results/sd/words").rglob("*.zip")) == set(drawn.values())
    images = {edit: np.stack(read_images(path)) for edit, path in drawn.items()}
    for edit, places in WORDS_OF.items():
        for place in places:
            path = folder / f"results/sd/probes/attacks/{place}/vocabulary-sweep"
            found = pd.read_parquet(path.with_suffix(".parquet"))
            mine = found[found["part"] == "word"]
            words = read_rows(drawn[edit]).reset_index().set_index("prompt")["row"][mine["prompt"]]
            assert len(words) > 0  # the rest names the concept
            seen = np.stack(read_images(path.with_suffix(".zip"), mine.index.tolist()))
            assert np.array_equal(seen, images[edit][words])
            assert found["worth"].iloc[0] == 3 * 2  # a step with guidance of each
    assert not np.array_equal(images["original"], images["random"])
    assert not np.array_equal(images["original"], images["ships/uce"])


def trace_is_of_one_attack(folder: Path, table: pd.DataFrame) -> None:
    """A cell's chain holds the trials of its edit and probe, and none of others."""
    csv = folder / "results/tables/brought_back.csv"
    told = trace(csv, "ships/uce/name-ladder", "rate")
    row = table[(table["edit"] == "uce") & (table["probe"] == "name-ladder")].iloc[0]
    (cell,) = told.cells
    assert (float(cell["value"]), cell["n"]) == (row["rate"], row["n"])
    assert cell["interval_95"] == [row["low_95"], row["high_95"]]
    assert cell["protocol"] == row["protocol"]

    def probed(column: str) -> list[str]:
        jobs = trace(csv, "ships/uce/name-ladder", column).jobs
        return sorted(path for job in jobs if job.record["step"] == "probe" for path in job.record["outputs"])

    where = "results/sd/probes/attacks"
    of = {"rate": "ships/uce/ship", "base_rate": "original/ship", "ghost_rate": "original/yeti"}
    of |= {"random_unet_rate": "random/ship"}
    for column, place in of.items():
        assert probed(column) == [f"{where}/{place}/name-ladder.{end}" for end in ("parquet", "zip")]
    assert len(trace(csv).jobs) > len(told.jobs)
    assert trace(csv, "ships/uce/begun").cells[0]["row"] == "ships/uce/begun"
