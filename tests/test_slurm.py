"""Jobs on a real SLURM of one node: profiles/slurm, its retries, its GPUs, what befalls a node or Snakemake.

tests/test_default_run.py sends the whole default run through it.
"""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clusters import SCRIPTS, control, submitted
from running import ROOT, contents, emptied_of_processes, ended, process_of, snakemake, started

QUICKLY = ("--cores", "8", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "3")
PICTURE = "results/sd/edits/objects/losses.png"
PROFILES = ("profiles/slurm/config.yaml", "profiles/kubernetes/config.yaml")
RULES = set(
    re.findall(
        r"^(?:use rule \w+ as|rule) (\w+)",
        "".join(p.read_text() for p in ROOT.glob("workflow/rules/*.smk")),
        re.MULTILINE,
    )
)


@pytest.mark.parametrize("path", PROFILES)
def test_profiles_group_rules_that_exist(path: str) -> None:
    profile = yaml.safe_load((ROOT / path).read_text())
    assert profile["groups"].keys() <= RULES
    assert profile["group-components"].keys() <= set(profile["groups"].values())


def test_memory_grows_and_gpu_numbers_are_set(slurm: dict[str, str], tmp_path: Path) -> None:
    run = snakemake(tmp_path, "--cores", "8", "--profile", "slurm", rules=SCRIPTS / "needs.smk", environment=slurm)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "filled.txt").read_text() == "1000\n"  # 500 were not enough
    assert (tmp_path / "fill.log").read_text() == "attempt 1000\n"
    assert (tmp_path / "gpu-0.txt").read_text() == "unset\n"
    assert (tmp_path / "gpu-1.txt").read_text() in ("0\n", "1\n")
    fills = [job for job in submitted(slurm) if "rule_fill" in job["StdOut"]]
    assert [job["JobState"] for job in fills] == ["FAILED", "COMPLETED"]
    assert "memory limit" in Path(fills[0]["StdOut"]).read_text()


@pytest.fixture
def broken(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project in which one file is to be made again."""
    shutil.copytree(finished, tmp_path / "project")
    (tmp_path / "project" / PICTURE).unlink()
    with emptied_of_processes(tmp_path / "project") as folder:
        yield folder


def test_a_node_goes_down_then_the_job_runs_over_its_time(slurm: dict[str, str], finished: Path, broken: Path) -> None:
    before, node = len(submitted(slurm)), f"nodename={socket.gethostname().split('.')[0]}"
    started_run = started(broken, *QUICKLY, PICTURE, environment=slurm)
    step = process_of(broken, "losses")
    step.suspend()
    control(slurm, node, "state=down", "reason=test")
    step.wait(120)
    control(slurm, node, "state=resume", check=False)  # refused where it has come back by itself
    step = process_of(broken, "losses")  # of the same job, which SLURM starts again
    step.suspend()
    control(slurm, f"jobid={submitted(slurm)[before]['JobId']}", "timelimit=0")
    step.wait(120)
    run = ended(started_run)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "DUE TO TIME LIMIT" in run.stderr
    jobs = submitted(slurm)[before:]
    assert [(job["JobState"], job["Restarts"]) for job in jobs] == [("TIMEOUT", "1"), ("COMPLETED", "0")]
    assert jobs[1]["TimeLimit"] == "00:30:00"  # twice that of the first
    assert contents(broken) == contents(finished)


def test_snakemake_is_killed_and_its_job_ends(slurm: dict[str, str], finished: Path, broken: Path) -> None:
    before = len(submitted(slurm))
    run = started(broken, *QUICKLY, PICTURE, environment=slurm)
    process_of(broken, "losses")
    run.kill()
    ended(run)
    while (job := submitted(slurm)[before])["JobState"] in ("RUNNING", "COMPLETING"):
        time.sleep(0.5)
    assert job["JobState"] == "COMPLETED"
    assert snakemake(broken, "--unlock").returncode == 0
    again = snakemake(broken, "-n", "--cores", "1", PICTURE)
    assert "Nothing to be done" in again.stdout
    assert "missing provenance/metadata" not in again.stdout  # what it knows is of the time before
    assert contents(broken) == contents(finished)
