"""The frame of jobs: arguments by name, settings as JSON, records, and how a step fails."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
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
from lethe.records.records import read_record
from lethe.steps import base
from lethe.steps.job import Job, main

SETTINGS = {"concept": "$(rm -rf ~) 'Ü' \n", "mace": {"lamb": 1.0}, "prior": None}
STEP = "lethe.steps.base"  # any: what it runs is replaced here


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """`seen(*arguments)`: the job that a step sees; its inputs are not looked at."""
    monkeypatch.setattr("lethe.steps.job.checked_inputs", lambda paths: {})
    jobs: list[Job] = []
    monkeypatch.setattr(base, "run", jobs.append)

    def see(*arguments: object) -> Job:
        main([STEP, *map(str, arguments)])
        return jobs[-1]

    return see


def test_arguments_are_paths_by_name_settings_and_threads(seen: Callable[..., Job]) -> None:
    before = torch.get_num_threads()
    try:
        job = seen(
            *("--read", "rows", "a b.csv", "--read", "edit", "--read", "moments", "x", "y", "--out", "shard", "s.zip"),
            *("--settings", json.dumps(SETTINGS | {"made_by": "d"}), "--threads", "3"),
        )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert job.read("rows") == Path("a b.csv")
    assert job.reads == {"rows": [Path("a b.csv")], "edit": [], "moments": [Path("x"), Path("y")]}
    assert (job.out, job.threads) == ({"shard": Path("s.zip")}, 3)
    assert vars(job.settings) == SETTINGS  # without the digest, which is for the records
    assert job.step == "base"
    for name in ("edit", "moments"):
        with pytest.raises(ValueError, match="values to unpack"):
            job.read(name)


@pytest.mark.parametrize(
    "given", [["--out", "a", "x"], ["--settings", "{}", "--out", "a"], ["--out", "a", "x", "--setting", "{}"]]
)
def test_a_missing_or_shortened_argument_is_refused(
    seen: Callable[..., Job], capsys: pytest.CaptureFixture, given: list[str]
) -> None:
    with pytest.raises(SystemExit):
        seen(*given)
    assert re.search("required: |expected 2 arguments", capsys.readouterr().err)


def test_a_record_names_inputs_by_their_content(seen: Callable[..., Job], tmp_path: Path) -> None:
    records = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            (tmp_path / folder / name).write_text(name)
        a, b, c = (tmp_path / folder / name for name in "abc")
        job = seen("--read", "one", a, "--read", "more", b, c, "--read", "none", "--settings", json.dumps(SETTINGS))
        records.append(job.record(concepts=["ship"], prior="captions"))
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abc"}
    assert (
        records[0]
        == records[1]
        == {
            "step": "base",
            "settings": {"concept": SETTINGS["concept"], "mace": SETTINGS["mace"]},  # `prior` stands below
            "inputs": {"one": [sums["a"]], "more": [sums["b"], sums["c"]], "none": []},
            "code": code_hash(STEP),
            "environment": environment(),
            "concepts": ["ship"],
            "prior": "captions",
        }
    )
    assert json.loads(json.dumps(records[0])) == records[0]


def test_a_record_outlives_a_commit(tmp_path: Path) -> None:
    """Written in a checkout and again from a copy of the library elsewhere, the same code makes the same record."""
    write = "import json; from types import SimpleNamespace as S; from lethe.steps.job import *; "
    write += "print(json.dumps(Job(['lethe.steps.edit', 'lethe.methods.mace'], S(), 1, {}, {}).record()))"
    library = tmp_path / "lethe"
    shutil.copytree(ROOT / "workflow" / "lethe", library, ignore=shutil.ignore_patterns("__pycache__"))

    def record() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", write]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout

    before = record()
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    assert record() == before
    assert json.loads(before)["code"] == code_hash("lethe.steps.edit", "lethe.methods.mace")
    (library / "tables" / "objects.py").write_text("of = 'other steps'")
    assert record() == before
    with (library / "erasure" / "closed_form.py").open("a") as file:
        file.write("changed = True\n")
    assert record() != before


def test_sigterm_ends_a_step_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, before = tmp_path / "a.txt", signal.getsignal(signal.SIGTERM)

    def work(job: Job) -> None:
        with written_whole(job.out["a"]) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(base, "run", work)
    with pytest.raises(SystemExit, match="base: stopped by SIGTERM"):
        main([STEP, "--out", "a", str(path), "--settings", "{}"])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """`run(work)`: what a step that reads in.txt and makes results/a.txt with `work` says when it fails.

    `run(work, read, made)` reads and makes other files.
    """
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("in")
    Path("results").mkdir()
    said: list[str] = []
    monkeypatch.setattr(logging, "error", lambda form, *values: said.append(form % values))

    def running(work: Callable[[Path], object], read: str = "in.txt", made: str = "results/a.txt") -> str:
        said.clear()
        monkeypatch.setattr(base, "run", lambda job: work(job.out["a"]))
        code = 0
        try:
            main([STEP, "--read", "one", read, "--out", "a", made, "--settings", '{"made_by": "d"}'])
        except SystemExit as end:
            code = end.code
        assert code == len(said) <= 1
        return "".join(said)

    return running


def test_the_records_of_a_step_hold_its_digest_its_code_and_its_notes(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(lambda path: path.write_text("made")) == ""
    record = read_record(Path("results/provenance/a.txt.json"))
    assert (record["made_by"], record["code"], record["step"]) == ("d", code_hash(STEP), "base")
    assert "notes" not in record

    def work(job: Job) -> None:
        job.out["a"].write_text("made")
        job.note(0, "nothing")
        job.note(2, "{} prompts")
        job.recorded["cells"] = {}

    monkeypatch.setattr(base, "run", work)
    main([STEP, "--out", "a", "results/a.txt", "--settings", "{}"])
    record = read_record(Path("results/provenance/a.txt.json"))
    assert (record["notes"], record["cells"], record["made_by"]) == ([[2, "{} prompts"]], {}, None)


def test_threads_are_set_for_what_only_a_plugin_imports(tmp_path: Path) -> None:
    """The step of measures loads CLIP by name; without this its embeddings would follow the machine's cores."""
    code = "import sys; from lethe.steps import measure; from lethe.steps.job import main; "
    code += "measure.run = lambda job: print(sys.modules['torch'].get_num_threads()); "
    code += "assert 'torch' not in sys.modules; "
    code += "main(['lethe.steps.measure', 'lethe.measures.clip', '--settings', '{}', '--threads', '1'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr


def test_a_step_may_name_the_setting_that_takes_less_memory(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LESS_MEMORY", "images.batch", raising=False)
    assert "images.batch" in run(raised(MemoryError()))


def raised(error: Exception) -> Callable[[Path], None]:
    """A block of a step that writes its output and then fails."""

    def work(path: Path) -> None:
        path.write_text("half")
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no\nship"), "base: no ship"),
        (OSError(28, "No space left on device", "results/a"), "base: results/a: No space left on device"),
        (OSError(28, "No space left on device"), "base: No space left on device (while making results/a.txt)"),
        (OSError("404"), "base: 404"),
        (SafetensorError("I/O error: \x1b"), r"base: I/O error: \x1b"),
    ],
)
def test_a_step_fails_with_a_sentence_and_leaves_no_record(run: Callable, error: Exception, told: str) -> None:
    run(lambda path: path.write_text("of the last run"))
    assert Path("results/provenance/a.txt.json").exists()
    assert run(raised(error)) == told
    assert not Path("results/provenance/a.txt.json").exists()


def test_what_is_a_fault_of_the_code_is_one_sentence_and_keeps_its_traceback(run: Callable) -> None:
    told = run(raised(KeyError("x")))
    assert told == "base: Lethe failed with KeyError: 'x' (the traceback is in logs/tracebacks/0001.txt)"
    assert "Traceback (most recent call last)" in Path("logs/tracebacks/0001.txt").read_text()
    assert not Path("results/provenance/a.txt.json").exists()


def test_a_step_without_its_input_says_so(run: Callable) -> None:
    Path("in.txt").unlink()
    assert run(lambda path: pytest.fail("it ran")).startswith("base: in.txt: there is no such file; ")


def test_a_step_that_cannot_write_its_record_fails(run: Callable) -> None:
    Path("results/provenance").write_text("in the way")
    told = run(lambda path: path.write_text("x"))
    assert told.startswith("base: ")
    assert "results/provenance" in told


def test_a_step_that_made_nothing_fails(run: Callable) -> None:
    assert run(lambda path: None).endswith("results/a.txt: No such file or directory")


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: b"I" + x[1:], lambda x: x + b"\n", lambda x: b""])
def test_a_damaged_input_is_set_aside_and_made_anew(run: Callable, damage: Callable[[bytes], bytes]) -> None:
    path = Path("results/a.txt")
    run(lambda path: path.write_text("made"))
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    read = ("results/a.txt", "b.txt")
    told = run(lambda path: pytest.fail("it ran"), *read)
    for part in ("results/a.txt: ", "it is now results/a.txt.damaged", "run snakemake again", "move it back"):
        assert part in told
    assert "delete its record results/provenance/a.txt.json" in told
    assert not path.exists()
    assert Path("results/a.txt.damaged").read_bytes() == damaged
    told = run(lambda path: pytest.fail("it ran"), *read)
    assert told == (
        "base: results/a.txt: this file is missing (it was damaged and is now results/a.txt.damaged); run snakemake "
        "again to make it anew"
    )
    path.write_text("my own")  # a second time, and this name is taken
    assert "it is now results/a.txt.damaged2" in run(lambda path: pytest.fail("it ran"), *read)
    Path("results/a.txt.damaged2").rename(path)
    Path("results/provenance/a.txt.json").unlink()
    assert run(lambda path: path.write_text("x"), *read) == ""
    assert Path("b.txt").read_text() == "x"
