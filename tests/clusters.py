"""A real SLURM of one node with two pretend GPUs, for tests: started, asked, changed, stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from running import ROOT

SCRIPTS = ROOT / "tests" / "slurm"


def missing_programs() -> list[str]:
    """Programs of SLURM that this machine lacks."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=path)]


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """The variables that lead to a SLURM of its own, which runs while the block does."""
    own = {"LETHE_SLURM": f"/tmp/lethe-slurm-test-{os.getpid()}"}  # short: it holds a socket
    start = subprocess.run(
        ["bash", str(SCRIPTS / "start.sh")], capture_output=True, text=True, env=os.environ | own, timeout=120
    )
    assert start.returncode == 0, start.stderr
    folder = Path(own["LETHE_SLURM"])
    try:
        path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    finally:
        subprocess.run(["bash", str(SCRIPTS / "stop.sh")], env=os.environ | own, timeout=120, check=True)


def submitted(slurm: dict[str, str]) -> list[dict[str, str]]:
    """What SLURM knows of every job so far, oldest first."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, env=os.environ | slurm, check=True
    ).stdout
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if "JobId" in line]
    return sorted(jobs, key=lambda job: int(job["JobId"]))


def control(slurm: dict[str, str], *settings: str, check: bool = True) -> None:
    """Change a job or a node."""
    subprocess.run(["scontrol", "update", *settings], env=os.environ | slurm, check=check)
