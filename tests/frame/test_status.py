"""How far a run is, from logs as Snakemake and jobs write them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lethe.__main__ import main
from lethe.frame.status import read_run, span, status

STAMP = "[Fri Nov 27 03:46:42 2026]"
BEGAN = time.mktime(time.strptime(STAMP, "[%a %b %d %H:%M:%S %Y]"))
LOG = f"""Building DAG of jobs...
Job stats:
job      count
-----  -------
lora         4
total        4

{STAMP}
Job 1: LoRA of ship, 50 steps: logs/lora/ship.log
{STAMP}
    Job 2: LoRA of bird, 50 steps: logs/lora/bird.log
{STAMP}
Job 3: LoRA of cat, 50 steps: logs/lora/cat.log
Select jobs to execute...
{STAMP}
Finished jobid: 1 (Rule: lora)
1 of 4 steps (25%) done
{STAMP}
Error in rule lora:
    message: None
    jobid: 3
    output: x
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory in the middle of a run: a job is done, one is running, one has failed."""
    for name in (".snakemake/log", ".snakemake/locks", "logs/lora"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.input.lock").touch()
    (tmp_path / ".snakemake/log/2026-11-27T034639.966790.snakemake.log").write_text(LOG)
    (tmp_path / ".snakemake/log/2026-11-28T000000.000000.snakemake.log").write_text("Nothing to be done\n")
    bars = "LoRA of bird:  20%|##        | 10/50 [00:20<01:20,  2.00s/it]\n"
    (tmp_path / "logs/lora/bird.log").write_text(
        bars + "LoRA of bird:  40%|####      | 20/50 [00:40<01:00,  2.00s/it]\n"
    )
    (tmp_path / "logs/lora/cat.log").write_text(f"{bars}12:00:00 ERROR lora: masks.zip: it is damaged\n")
    return tmp_path


def test_a_run_that_goes_on(folder: Path) -> None:
    first, *rest = status(folder, now=BEGAN + 65)
    assert first == "the last run, of 2026-11-27 03:46: 1 of 4 jobs done, going on"
    assert rest == [
        "running for 1 min 5 s: LoRA of bird, 50 steps: logs/lora/bird.log",
        "    LoRA of bird 20/50, 2.00s/it, 01:00 left",
        "failed: LoRA of cat, 50 steps: logs/lora/cat.log",
        "    lora: masks.zip: it is damaged",
        "run the same command again: what is done stays",
    ]


def test_a_run_that_was_stopped(folder: Path) -> None:
    (folder / ".snakemake/locks/0.input.lock").unlink()
    first, *rest = status(folder, now=BEGAN)
    assert first.endswith("1 of 4 jobs done, it was stopped")
    assert not any(line.startswith("running") for line in rest)


def test_a_second_attempt_has_not_failed(folder: Path) -> None:
    (log, _) = sorted((folder / ".snakemake/log").iterdir())
    log.write_text(f"{LOG}{STAMP}\nJob 3: LoRA of cat, 50 steps: logs/lora/cat.log\n")
    run = read_run(log)
    assert (run.failed, run.running, run.done, run.jobs) == ([], ["2", "3"], ["1"], 4)


def test_where_nothing_ran(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"lethe: {tmp_path}: nothing ran here; name the folder in which snakemake runs\n"


@pytest.mark.parametrize(("seconds", "said"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")])
def test_times_are_said_in_words(seconds: float, said: str) -> None:
    assert span(seconds) == said
