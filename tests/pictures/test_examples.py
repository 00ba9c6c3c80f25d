"""The picture of examples as its step draws it: of many concepts the worst, of prompts with own seeds what is there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lethe.files.shards import write_shard
from running import ROOT, step_command

CONCEPTS = [f"thing {k}" for k in range(40)]


def colour(concept: int, method: int) -> tuple[int, int, int]:
    return (10 + 5 * concept, 120 if method else 240, 30)


def shard(path: Path, types: list[str], seeds: list[int], method: int, suite: str) -> Path:
    rows = pd.DataFrame(
        {"type": types, "prompt": [f"a photo of the {kind}" for kind in types], "evaluation_seed": seeds}
    )
    colours = [colour(int(kind.split()[1]), method) for kind in types]
    about = {"base": "b", "edit": f"edit {method}", "suite": suite, "shard": path.stem}
    write_shard(path, rows.rename_axis("row"), [np.full((8, 8, 3), own, np.uint8) for own in colours], about)
    return path


def drawn(folder: Path, concepts: list[str], seeds: dict[str, list[int]], *scores: Path) -> np.ndarray:
    """The picture of erased things and one other, before and after, that is asked to show seeds 1 and 2."""
    types = [kind for kind in concepts for _ in seeds[kind]]
    numbers = [seed for kind in concepts for seed in seeds[kind]]
    shards = []
    for method in (0, 1):
        shards.append(shard(folder / f"{method}.zip", types, numbers, method, "all"))
        shards.append(shard(folder / f"{method}.kept.zip", ["other 45", "other 45"], [1, 2], method, "stay"))
    settings = dict(
        concepts=concepts,
        edits=[("original", "edit 0"), ("mace", "edit 1")],
        roles=[("erased", ("all", "erased")), ("kept", ("stay", "kept"))],
        task="t",
        seeds=[1, 2],
        kept=7,
    )
    shards.reverse()  # what they are stands in them
    run = subprocess.run(
        step_command("examples", settings, {"shards": shards, "scores": scores}, {"figure": folder / "a.png"}),
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with Image.open(folder / "a.png") as picture:
        return np.asarray(picture.convert("RGB"))


def left_of(picture: np.ndarray, concept: int) -> float | None:
    """Where the images of a concept begin, of the base as it is; None without any."""
    columns = np.where((picture == colour(concept, 0)).all(axis=2).any(axis=0))[0]
    return int(columns[0]) if len(columns) else None


def test_of_many_concepts_those_that_are_still_recognised_come_first(tmp_path: Path) -> None:
    recognised = {name: 50.0 if name == "thing 33" else 0.0 for name in CONCEPTS}
    details = {"original": {"acc_e_by_concept": {"thing 7": 100.0}}, "mace": {"acc_e_by_concept": recognised}}
    (tmp_path / "table.json").write_text(json.dumps({"details": details}))
    picture = drawn(tmp_path, CONCEPTS, {name: [1, 2] for name in CONCEPTS}, tmp_path / "table.json")
    places = {k: left_of(picture, k) for k in range(40)}
    shown = sorted((place, k) for k, place in places.items() if place is not None)
    assert [k for _, k in shown] == [33, *range(18)]
    assert left_of(picture, 45) > shown[-1][0]
    assert picture.shape[1] < 3200


def test_prompts_with_seeds_of_their_own_show_what_there_is(tmp_path: Path) -> None:
    picture = drawn(tmp_path, CONCEPTS[:2], {"thing 0": [4065, 2904, 7], "thing 1": [77]})
    ink = [int((picture == colour(k, 0)).all(axis=2).sum()) for k in (0, 1, 45)]
    assert ink[0] == pytest.approx(ink[2], rel=0.03)  # two images each
    assert ink[0] == pytest.approx(2 * ink[1], rel=0.03)
