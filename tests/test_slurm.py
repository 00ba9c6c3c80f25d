"""Runs through a real SLURM of one node: profiles/slurm, its groups, its retries, its GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lethe.records import FOLDER
from running import ROOT, snakemake

SCRIPTS = ROOT / "tests" / "slurm"
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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead to a SLURM of one node with two pretend GPUs."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=path)]:
        pytest.skip(f"no {', '.join(missing)}: on Debian, as root, apt-get install munge slurmctld slurmd slurm-client")
    own = {"LETHE_SLURM": f"/tmp/lethe-slurm-test-{os.getpid()}"}  # short: it holds a socket
    started = subprocess.run(
        ["bash", str(SCRIPTS / "start.sh")], capture_output=True, text=True, env=os.environ | own, timeout=120
    )
    assert started.returncode == 0, started.stderr
    folder = Path(own["LETHE_SLURM"])
    try:
        yield {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    finally:
        subprocess.run(["bash", str(SCRIPTS / "stop.sh")], env=os.environ | own, timeout=120, check=True)


def submitted(slurm: dict[str, str]) -> list[dict[str, str]]:
    """What SLURM knows of every job so far, oldest first."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, env=os.environ | slurm, check=True
    ).stdout
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if "JobId" in line]
    return sorted(jobs, key=lambda job: int(job["JobId"]))


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


def test_the_whole_workflow_gives_the_same_bytes_as_a_local_run(
    slurm: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    before = len(submitted(slurm))
    run = snakemake(folder, "--cores", "8", "--profile", "slurm", environment=slurm)
    assert run.returncode == 0, run.stdout + run.stderr
    records = finished / "results" / FOLDER  # they say when and where, which differs
    made = [path for path in finished.glob("results/**/*") if path.is_file() and records not in path.parents]
    local = [path.relative_to(finished) for path in made]
    assert {"tables/objects.csv", "sd/edits/objects/mace.safetensors"} <= {
        str(path)[len("results/") :] for path in local
    }
    assert [path for path in local if (finished / path).read_bytes() != (folder / path).read_bytes()] == []
    jobs = submitted(slurm)[before:]
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    (concepts,) = [job for job in jobs if "lora" in job["StdOut"]]
    assert concepts["TresPerJob"].endswith("gpu:1")  # two chains, one submission, one GPU
