"""Jobs on a real SLURM of one node: profiles/slurm, its retries, its GPUs, what befalls a node or Snakemake.

tests/runs/test_default_run.py sends the whole default run through it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import yaml

from clusters import SCRIPTS, control, submitted
from lethe.config.cluster import refusal
from running import ROOT, contents, emptied_of_processes, ended, process_of, snakemake, started

QUICKLY = ("--cores", "8", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "3")
PICTURE = "results/sd/edits/objects/mace/losses.png"
PROFILES = ("profiles/slurm/config.yaml",)
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


def test_what_slurm_refuses_is_said_before_anything_is_submitted(
    slurm: dict[str, str], project: Path, tmp_path: Path
) -> None:
    """F33: jobs in groups, whose refusal Snakemake reports without its reason."""
    before = len(submitted(slurm))
    shutil.copytree(project / "config", tmp_path / "config")
    for name in ("classes.tsv", "captions.csv", "reference.csv"):
        shutil.copy(project / name, tmp_path)
    asking = ("--set-resources", "images:slurm_partition=nosuch", "--", "results/sd/concepts/ship/images.zip")
    run = snakemake(tmp_path, *QUICKLY, *asking, environment=slurm)
    assert run.returncode == 1
    said = run.stdout + run.stderr
    assert "SLURM refuses jobs of the rule images: invalid partition specified: nosuch" in said
    assert "asked with `sbatch --test-only --partition=nosuch --mem=" in said
    assert "Traceback" not in said
    assert len(submitted(slurm)) == before
    assert not (tmp_path / "results").exists()


def test_a_refusal_is_final_unless_nodes_may_come_back(slurm: dict[str, str]) -> None:
    with mock.patch.dict(os.environ, slurm):
        assert refusal([("fits", {"mem_mb": 1000, "runtime": 15, "gpu": 1})]) is None
        assert refusal([("fits", {}), ("lost", {"slurm_partition": "nosuch"})]).final
        large = refusal([("fits", {}), ("large", {"mem_mb": 9_000_000}), ("model", {"gpu": 1, "gpu_model": "h9"})])
    assert not large.final
    assert "rule model: allocation failure: Requested node configuration is not available, or nodes" in large.sentence
    with mock.patch.dict(os.environ, PATH="/nowhere"):
        assert "sbatch cannot be asked" in refusal([("fits", {})]).sentence


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
