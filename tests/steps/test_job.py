"""What steps share: arguments by name, settings as JSON, records, and how they fail."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from conftest import ROOT
from lethe.files.whole import written_whole
from lethe.records.code import code_hash, environment
from lethe.steps.job import record_of, step, use_threads

SETTINGS = {"concept": "$(rm -rf ~) 'Ü' \n", "mace": {"lamb": 1.0}, "prior": None}


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str, **names: list[str]):
    """The arguments that a step gets whose inputs are not there: they are looked for when it begins, not here."""
    monkeypatch.setattr(sys, "argv", ["step", *arguments])
    monkeypatch.setattr("lethe.steps.job.checked_inputs", lambda paths: {})
    with step("mace", "A step.", **names) as args:
        return args


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
    write = "import argparse, json, sys; from types import SimpleNamespace as S; from lethe.steps.job import *; "
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
    (tmp_path / "lethe" / "tables" / "objects.py").write_text("# of other steps")
    assert record() == before
    with (tmp_path / "lethe" / "erasure" / "closed_form.py").open("a") as file:
        file.write("# changed\n")
    assert record() != before


def test_sigterm_ends_a_step_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, before = tmp_path / "a.txt", signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["step", "--out-a", str(path), "--settings", "{}"])
    with (
        pytest.raises(SystemExit, match="mace: stopped by SIGTERM"),
        step("mace", "A step.", outputs=["a"]) as args,
        written_whole(args.out_a) as part,
    ):
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """`run(work)`: what a step that reads in.txt and makes results/a.txt in this block says when it fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["step", "--one", "in.txt", "--out-a", "results/a.txt", "--settings", "{}"])
    Path("in.txt").write_text("in")
    Path("results").mkdir()
    said: list[str] = []
    monkeypatch.setattr(logging, "error", lambda form, *values: said.append(form % values))

    def running(work: Callable[[Path], object]) -> str:
        said.clear()
        code = 0
        try:
            with step("mace", "A step.", inputs=["one"], outputs=["a"]) as args:
                work(args.out_a)
        except SystemExit as end:
            code = end.code
        assert code == len(said) <= 1
        return "".join(said)

    return running


def raised(error: Exception) -> Callable[[Path], None]:
    """A block of a step that writes its output and then fails."""

    def work(path: Path) -> None:
        path.write_text("half")
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no\nship"), "mace: no ship"),
        (OSError(28, "No space left on device", "results/a"), "mace: results/a: No space left on device"),
        (OSError(28, "No space left on device"), "mace: No space left on device (while making results/a.txt)"),
        (OSError("404"), "mace: 404"),
        (SafetensorError("I/O error: \x1b"), r"mace: I/O error: \x1b"),
    ],
)
def test_a_step_fails_with_a_sentence_and_leaves_no_record(run: Callable, error: Exception, told: str) -> None:
    run(lambda path: path.write_text("of the last run"))
    assert Path("results/provenance/a.txt.json").exists()
    assert run(raised(error)) == told
    assert not Path("results/provenance/a.txt.json").exists()


def test_what_is_a_fault_of_the_code_is_one_sentence_and_keeps_its_traceback(run: Callable) -> None:
    told = run(raised(KeyError("x")))
    assert told == "mace: Lethe failed with KeyError: 'x' (the traceback is in logs/tracebacks/0001.txt)"
    assert "Traceback (most recent call last)" in Path("logs/tracebacks/0001.txt").read_text()
    assert not Path("results/provenance/a.txt.json").exists()


def test_a_step_without_its_input_says_so(run: Callable) -> None:
    Path("in.txt").unlink()
    assert run(lambda path: pytest.fail("it ran")).startswith("mace: in.txt: there is no such file; ")


def test_a_step_that_cannot_write_its_record_fails(run: Callable) -> None:
    Path("results/provenance").write_text("in the way")
    told = run(lambda path: path.write_text("x"))
    assert told.startswith("mace: ")
    assert "results/provenance" in told


def test_a_step_that_made_nothing_fails(run: Callable) -> None:
    assert run(lambda path: None).endswith("results/a.txt: No such file or directory")


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: b"I" + x[1:], lambda x: x + b"\n", lambda x: b""])
def test_a_damaged_input_is_set_aside_and_made_anew(
    run: Callable, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    path = Path("results/a.txt")
    run(lambda path: path.write_text("made"))
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    monkeypatch.setattr(sys, "argv", ["step", "--one", "results/a.txt", "--out-a", "b.txt", "--settings", "{}"])
    told = run(lambda path: pytest.fail("it ran"))
    for part in ("results/a.txt: ", "it is now results/a.txt.damaged", "run snakemake again", "move it back"):
        assert part in told
    assert "delete its record results/provenance/a.txt.json" in told
    assert not path.exists()
    assert Path("results/a.txt.damaged").read_bytes() == damaged
    told = run(lambda path: pytest.fail("it ran"))
    assert told == (
        "mace: results/a.txt: this file is missing (it was damaged and is now results/a.txt.damaged); run snakemake "
        "again to make it anew"
    )
    path.write_text("my own")  # a second time, and this name is taken
    assert "it is now results/a.txt.damaged2" in run(lambda path: pytest.fail("it ran"))
    Path("results/a.txt.damaged2").rename(path)
    Path("results/provenance/a.txt.json").unlink()
    assert run(lambda path: path.write_text("x")) == ""
    assert Path("b.txt").read_text() == "x"


def test_use_threads() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
