"""Several GPUs in one machine: each job takes one that no other job has, and keeps it until its process ends.

A lock on a file stands for a GPU. The system gives it back when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO

VISIBLE = "CUDA_VISIBLE_DEVICES"
UNSTARTED = "PYTORCH_NVML_BASED_CUDA_CHECK"  # 1: torch looks for GPUs, as for diffusers' import, and starts nothing


def take_gpu(name: str) -> tuple[str, IO[bytes] | None]:
    """The name of the device that a job runs on, of the one set as `device`; and a file that it keeps open meanwhile.

    Where `auto` or `cuda` leaves a choice between several GPUs, the process sees from now on only the one that fewest
    jobs have, which torch calls `cuda`. For that it must not have started CUDA: nor has a fork of a process that has
    only imported libraries, if `UNSTARTED` was 1 there. Without it the GPU is named by its number, and others stay in
    sight. Any other name, and a machine with one GPU or none, leave all as it is, and the file is None.
    """
    gpus = visible_gpus() if name in ("auto", "cuda") else []
    if len(gpus) < 2:
        return name, None
    place, held = least_taken(gpus, lock_folder())
    if os.environ.get(UNSTARTED) != "1":
        return f"cuda:{place}", held
    os.environ[VISIBLE] = gpus[place]
    import torch

    # Where only the driver itself can count them, it has looked at the variable already, and all stay visible.
    return ("cuda" if torch.cuda.device_count() == 1 else f"cuda:{place}"), held


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; found without starting CUDA."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), (part.strip() for part in given.split(","))))
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def lock_folder() -> Path:
    """Where the locks of this user on this machine are; in SLURM of one submission, which numbers GPUs by itself."""
    submission = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir()) / "-".join(
        ["lethe-gpus", str(os.getuid()), *([submission] if submission else [])]
    )


def least_taken(gpus: Sequence[str], folder: Path) -> tuple[int, IO[bytes]]:
    """The place in `gpus` of one that fewest jobs have, and the open file whose lock says that it is taken.

    With more jobs than GPUs some share one; nobody waits. Raises OSError where the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    jobs = 0  # that have each of the GPUs, at least
    while True:
        for place, gpu in enumerate(gpus):
            file = (folder / f"{gpu.replace('/', '_')}.{jobs}").open("ab")
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return place, file
            file.close()
        jobs += 1
