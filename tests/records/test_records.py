"""Records of what made a file: where they are, what they hold, and what they find when the file is another one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import ROOT
from lethe.__main__ import main
from lethe.records.code import commit, environment
from lethe.records.records import checked_inputs, name_of, notes, place, read_record, read_records, write_records


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


CODE = "c" * 64


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as working directory."""
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*paths: str, inputs: dict[str, str] | None = None, **settings: object) -> None:
    """Write files that hold their own path, and records of them as made by one job."""
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    read = {Path(path): found for path, found in (inputs or {}).items()}
    write_records("mace", settings, inputs=read, outputs=map(Path, paths), threads=1, code=CODE, more={})


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("results/sd/base.json", "sd/base.json"),
        ("{here}/results/sd/base.json", "sd/base.json"),
        ("results/sd/concepts/results/images.zip", "sd/concepts/results/images.zip"),  # a concept of that name
        ("other/../results/x", "x"),
        ("other/results/x", "x"),
        ("/data/results/old/results/sd/x", "sd/x"),
        ("x", None),
        ("results", None),
        ("results/../x", None),
        ("/data/my_results/x", None),
        ("results/provenance/x.json", None),
    ],
)
def test_a_file_below_a_results_folder_has_a_place(project: Path, path: str, below: str | None) -> None:
    found = place(Path(path.format(here=project)))
    assert (found and found.below) == below
    if found:
        assert found.record == found.results / "provenance" / f"{below}.json"
        assert found.results.name == "results"


def test_a_results_folder_may_be_a_link(project: Path) -> None:
    (project / "results").rmdir()
    (project / "scratch").mkdir()
    (project / "results").symlink_to("scratch")
    assert place(Path("results/x")).below == "x"
    made("results/x")
    assert (project / "scratch/provenance/x.json").is_file()


def test_records_call_files_by_names_that_outlive_a_move(project: Path) -> None:
    assert name_of(project / "results" / "a") == name_of(Path("results/a")) == "results/a"
    assert name_of(project / "templates.txt") == "templates.txt"
    assert name_of(Path("/data/x")) == "/data/x"


def test_a_record_says_what_made_a_file(project: Path) -> None:
    Path("given").write_text("given")
    inputs = {"given": digest("given"), "results/b": "0" * 64}
    before = time.time()
    made("results/x/a", "results/x/loss.csv", "elsewhere", inputs=inputs, seed=3, concept={"name": "Ü"})
    record = read_record(Path("results/provenance/x/a.json"))
    assert record == read_record(Path("results/provenance/x/loss.csv.json"))
    assert not list(project.glob("**/elsewhere*.json"))
    assert record["step"] == "mace"
    assert record["settings"] == {"seed": 3, "concept": {"name": "Ü"}}
    assert record["inputs"] == inputs
    assert record["outputs"] == {path: digest(path) for path in ("results/x/a", "results/x/loss.csv")}
    assert record["code"] == CODE
    assert record["environment"] == environment()
    run = record["run"]
    assert run["host"] == os.uname().nodename
    assert run["commit"] == commit()
    assert run["gpu"] is None
    assert run["started"].endswith("+00:00")
    assert run["seconds"] > 0
    assert 1 < run["peak_mb"] < 1 << 20
    assert before - 7 * 86400 < before - run["seconds"] < before


def test_a_folder_is_recorded_by_all_that_is_in_it(project: Path) -> None:
    Path("results/model").mkdir()
    for name in ("config.json", "weights"):
        Path("results/model", name).write_text(name)
    write_records("base", {}, inputs={}, outputs=[Path("results/model")], threads=1, code=CODE, more={})
    assert checked_inputs([Path("results/model")])
    Path("results/model/weights").write_text("others")
    with pytest.raises(ValueError, match=r"it is now results/model\.damaged"):
        checked_inputs([Path("results/model")])


PROCESS = """
import sys, time
from pathlib import Path
from lethe.records.records import write_records
time.sleep(0.3)
until = time.process_time() + 0.3
while time.process_time() < until: pass
held = bytearray(300 << 20)
write_records("mace", {}, inputs={}, outputs=[], threads=1, code='c', more={})
assert not {"torch", "numpy", "PIL"} & set(sys.modules), "outputs outside results/ cost no imports"
Path("results/a").write_text("a")
write_records("mace", {}, inputs={}, outputs=[Path("results/a")], threads=1, code='c', more={})
assert "torch" not in sys.modules
"""


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-c", *arguments]


LIBRARY = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}


def test_time_and_memory_are_those_of_the_whole_process() -> None:
    before = time.time()
    subprocess.run(python(PROCESS), check=True, env=LIBRARY, timeout=120)
    whole = time.time() - before
    run = read_record(Path("results/provenance/a.json"))["run"]
    assert 0.6 < run["seconds"] <= whole + 0.02  # the system counts in hundredths
    assert 0.3 < run["cpu_seconds"] <= 2 * whole
    assert run["peak_mb"] > 300


def test_memory_of_the_process_that_started_it_does_not_count() -> None:
    write = "from pathlib import Path; from lethe.records.records import *; Path('results/a').write_text('a'); "
    write += "write_records('mace', {}, inputs={}, outputs=[Path('results/a')], threads=1, code='c', more={})"
    parent = "import subprocess, sys; held = bytearray(600 << 20); subprocess.run(sys.argv[1:], check=True)"
    subprocess.run([*python(parent), *python(write)], check=True, env=LIBRARY, timeout=120)
    assert read_record(Path("results/provenance/a.json"))["run"]["peak_mb"] < 300


@pytest.mark.parametrize(
    ("memory", "told"), [([9, 0], "NVIDIA H200"), ([0, 9], "NVIDIA A100"), ([0, 0], None), ([], None)]
)
def test_a_gpu_is_named_where_it_was_used(monkeypatch: pytest.MonkeyPatch, memory: list[int], told: str | None) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: memory != [],
        device_count=lambda: 2,
        max_memory_reserved=lambda number: memory[number],
        get_device_name=lambda number: ("NVIDIA H200", "NVIDIA A100")[number],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    made("results/a")
    assert read_record(Path("results/provenance/a.json"))["run"]["gpu"] == told


def test_what_has_no_record_may_be_anything() -> None:
    for path in ("results/a", "given"):
        Path(path).write_text("x")
    assert checked_inputs([Path("given"), Path("results/a"), Path("given")]) == {
        Path("given"): digest("x"),
        Path("results/a"): digest("x"),
    }


def test_all_damaged_inputs_are_named_at_once() -> None:
    for name in "abc":
        made(f"results/{name}")
    for name in "ac":
        Path(f"results/{name}").write_text("other")
    with pytest.raises(ValueError, match=r"results/a: .* results/a\.damaged; so is results/c: .* results/c\.damaged;"):
        checked_inputs([Path(f"results/{name}") for name in "abc"])
    assert sorted(path.name for path in Path("results").iterdir()) == ["a.damaged", "b", "c.damaged", "provenance"]


READER = """
import sys
from lethe.steps.job import main
sys.stdin.read()
main(["lethe.steps.base", "--read", "one", "results/a", "--out", "b", "b", "--settings", "{}"])
"""


def test_jobs_that_find_the_same_damage_at_once_all_say_so() -> None:
    made("results/a")
    Path("results/a").write_bytes(b"x" * (32 << 20))  # takes a moment to hash
    pipes = dict(stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=LIBRARY)
    jobs = [subprocess.Popen(python(READER), **pipes) for _ in range(3)]
    time.sleep(2)  # all of them wait
    for job in jobs:
        job.stdin.close()
    said = [job.stderr.read() for job in jobs]
    assert [job.wait(60) for job in jobs] == [1, 1, 1]
    for text in said:
        (line,) = text.splitlines()
        assert "base: results/a: " in line
        assert "run snakemake again" in line
    assert sorted(path.name for path in Path("results").iterdir()) == ["a.damaged", "provenance"]


def test_the_second_of_two_jobs_finds_it_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    made("results/a")
    Path("results/a").write_text("other")
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        rename(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(ValueError, match="another job has just renamed it; run snakemake again"):
        checked_inputs([Path("results/a")])


def test_a_file_that_cannot_be_set_aside_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made("results/a")
    Path("results/a").write_text("other")

    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path), None, str(target))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(ValueError, match=r"results/a: .* could not be renamed \(Permission denied\), so delete it"):
        checked_inputs([Path("results/a")])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', "\udcff", '{"format": 1, "step": 3}'])
def test_a_record_that_cannot_be_read_stops_no_step(text: str, caplog: pytest.LogCaptureFixture) -> None:
    made("results/a")
    record = Path("results/provenance/a.json")
    record.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"results/provenance/a\.json: this is no record that this version"):
        read_record(record)
    assert checked_inputs([Path("results/a")]) == {Path("results/a"): digest("results/a")}
    assert "used unchecked" in caplog.text


def test_every_record_is_found(project: Path) -> None:
    made("results/b", "results/x/y.json")
    made("results/a")
    Path("results/provenance/.a.json.7.part").write_text("of a job that was killed")
    assert [below for below, _ in read_records(Path("results"))] == ["a", "b", "x/y.json"]
    with pytest.raises(ValueError, match="elsewhere: there are no records"):
        list(read_records(Path("elsewhere")))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("**/*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "told", "code"),
    [
        (lambda: None, "4 files as recorded, 0 damaged, 0 missing", 0),
        (lambda: Path("results/x/a").unlink(), "3 files as recorded, 0 damaged, 1 missing", 0),
        (lambda: Path("results/x/a").write_text(""), "3 files as recorded, 1 damaged, 0 missing", 1),
        (lambda: Path("results/provenance/x/a.json").write_text(""), "3 files as recorded, 1 damaged, 0 missing", 1),
        (lambda: Path("results/own").write_text("mine"), "4 files as recorded, 0 damaged, 0 missing", 0),
    ],
)
def test_verify_compares_every_file_and_changes_none(
    project: Path, capsys: pytest.CaptureFixture, change: Callable[[], object], told: str, code: int
) -> None:
    made("results/x/a", "results/x/b")
    made("results/\x1b[31mc")
    made("results/d")
    change()
    before = snapshot(project)
    assert main(["verify"]) == code
    *names, last = capsys.readouterr().out.splitlines()
    assert last == told
    assert [("results/x/a: " in name or "x/a.json: " in name) for name in names] == [True] * code
    assert snapshot(project) == before
    assert main(["verify", str(project / "results")]) == code  # from anywhere
    Path("results/\x1b[31mc").write_text("")
    capsys.readouterr()
    assert main(["verify"]) == 1
    assert "\x1b" not in capsys.readouterr().out
    assert json.loads(Path("results/provenance/d.json").read_text())["step"] == "mace"


def test_what_jobs_noted_is_told_once_with_the_largest_count() -> None:
    said = "{} prompts of a.csv were cut"
    for name, noted in {
        "results/x/original/0000.zip": [(2, said)],
        "results/x/original/0001.zip": [(3, said)],
        "results/x/mace/0000.zip": [(2, said), (1, "nothing was erased")],
        "results/x/mace/0001.zip": [],
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
        write_records("mace", {}, inputs={}, outputs=[Path(name)], threads=1, code=CODE, more={"notes": noted})
    outputs = [Path(f"results/x/{edit}/000{k}.zip") for edit in ("original", "mace") for k in (0, 1)]
    found = notes([*outputs, Path("results/none"), Path("elsewhere")])
    assert found == ["5 prompts of a.csv were cut", "nothing was erased"]
    assert notes(outputs[1:2]) == ["3 prompts of a.csv were cut"]
