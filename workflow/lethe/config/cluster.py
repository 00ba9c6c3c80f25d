"""Ask a SLURM cluster whether it would take jobs, before any is submitted."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# What SLURM says of a request that no node can ever meet, and of one whose nodes are all down or drained just now.
UNAVAILABLE = "Requested node configuration is not available"
# What a job may ask for, and how sbatch is told; other resources do not reach it.
OPTIONS = {
    "slurm_partition": "--partition={}",
    "slurm_account": "--account={}",
    "constraint": "--constraint={}",
    "qos": "--qos={}",
    "mem_mb": "--mem={}",
    "runtime": "--time={}",
    "gres": "--gres={}",
}


class Refusal(NamedTuple):
    """Why SLURM would refuse a job, in a sentence; `final` unless nodes that come back may change it."""

    sentence: str
    final: bool


def refusal(requests: Iterable[tuple[str, Mapping[str, object]]]) -> Refusal | None:
    """What SLURM has against one of some jobs, each a rule's name and its resources; None if it would take them all.

    Asks `sbatch --test-only` once for each different request; nothing is submitted. When a submission of several jobs
    is refused, Snakemake loses the reason.
    """
    asked: dict[tuple[str, ...], str] = {}
    for rule, resources in requests:
        asked.setdefault(options(resources), rule)
    found = None
    for chosen, rule in asked.items():
        command = ["sbatch", "--test-only", *chosen, "--wrap=true"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Refusal(f"sbatch cannot be asked ({error}); start this run where sbatch works", final=True)
        if answer.returncode == 0:
            continue
        reason = " ".join(line.removeprefix("sbatch: error: ") for line in answer.stderr.splitlines())
        final = UNAVAILABLE not in reason
        maybe = "" if final else ", or nodes that could run them are down just now"
        found = Refusal(
            f"SLURM refuses jobs of the rule {rule}: {reason}{maybe}. It was asked with `{shlex.join(command)}`; set "
            "in the profile what the cluster wants (docs/cluster.md, What to set for a site)",
            final,
        )
        if final:
            return found
    return found


def options(resources: Mapping[str, object]) -> tuple[str, ...]:
    """The options of sbatch for a job's resources."""
    chosen = [form.format(resources[name]) for name, form in OPTIONS.items() if resources.get(name)]
    if gpus := resources.get("gpu"):
        model = resources.get("gpu_model")
        chosen.append(f"--gpus={model}:{gpus}" if model else f"--gpus={gpus}")
    return (*chosen, *shlex.split(str(resources.get("slurm_extra") or "")))
