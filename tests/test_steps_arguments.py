"""What steps share: arguments by name, settings as JSON, a record of what went in and nothing of when or where."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from lethe.provenance import code_hash, environment
from lethe.steps.arguments import read_arguments, record_of, use_threads

SETTINGS = {"concept": "$(rm -rf ~) 'Ü' \n", "mace": {"lamb": 1.0}, "prior": None}


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str, **names: list[str]):
    monkeypatch.setattr(sys, "argv", ["step", *arguments])
    return read_arguments("A step.", **names)


def test_arguments_are_paths_lists_settings_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    args = parsed(
        monkeypatch,
        *("--rows", "a b.csv", "--edit", "--moments", "x", "y", "--out-shard", "s.zip"),
        *("--settings", json.dumps(SETTINGS), "--threads", "3"),
        inputs=["rows"],
        lists=["edit", "moments"],
        outputs=["shard"],
    )
    assert args.rows == Path("a b.csv")
    assert (args.edit, args.moments) == ([], [Path("x"), Path("y")])
    assert (args.out_shard, args.threads) == (Path("s.zip"), 3)
    assert vars(args.settings) == SETTINGS


@pytest.mark.parametrize("given", [["--out-a", "x"], ["--settings", "{}"], ["--out-a", "x", "--setting", "{}"]])
def test_a_missing_or_shortened_argument_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, given: list[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(monkeypatch, *given, outputs=["a"])
    assert "required: " in capsys.readouterr().err


def test_a_record_names_inputs_by_their_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            (tmp_path / folder / name).write_text(name)
        a, b, c = (str(tmp_path / folder / name) for name in "abc")
        arguments = ["--one", a, "--more", b, c, "--none", "--out-x", "x", "--settings", json.dumps(SETTINGS)]
        args = parsed(monkeypatch, *arguments, inputs=["one"], lists=["more", "none"], outputs=["x"])
        records.append(record_of("mace", args, concepts=["ship"], prior="captions"))
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abc"}
    assert (
        records[0]
        == records[1]
        == {
            "step": "mace",
            "settings": {"concept": SETTINGS["concept"], "mace": SETTINGS["mace"]},  # `prior` stands below
            "inputs": {"one": [sums["a"]], "more": [sums["b"], sums["c"]], "none": []},
            "code": code_hash("lethe.steps.mace"),
            "environment": environment(),
            "concepts": ["ship"],
            "prior": "captions",
        }
    )
    assert json.loads(json.dumps(records[0])) == records[0]


def test_a_record_outlives_a_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Written in a checkout and again from a copy of the library elsewhere, the same code makes the same record."""
    write = "import argparse, json, sys; from types import SimpleNamespace as S; from lethe.steps.arguments import *; "
    write += "print(json.dumps(record_of('mace', argparse.Namespace(settings=S(), threads=1))))"
    shutil.copytree(ROOT / "workflow" / "lethe", tmp_path / "lethe", ignore=shutil.ignore_patterns("__pycache__"))

    def record() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", write]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout

    before = record()
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    assert record() == before
    assert json.loads(before)["code"] == code_hash("lethe.steps.mace")
    (tmp_path / "lethe" / "tables.py").write_text("# of other steps")
    assert record() == before
    with (tmp_path / "lethe" / "closed_form.py").open("a") as file:
        file.write("# changed\n")
    assert record() != before


def test_use_threads() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
