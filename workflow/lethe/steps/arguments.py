"""What every step does the same way: its arguments, its log, its record of what made the output."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from lethe.provenance import code_hash, environment, sha256_of


def read_arguments(
    description: str, *, inputs: Sequence[str] = (), lists: Sequence[str] = (), outputs: Sequence[str]
) -> argparse.Namespace:
    """Parse `--<input> PATH`, `--<list> PATH ...`, `--out-<output> PATH`, `--settings JSON` and `--threads N`.

    Settings become a namespace, nested objects stay dictionaries. Also starts the log on standard error.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name in inputs:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in lists:
        parser.add_argument(f"--{name}", type=Path, nargs="*", required=True)
    for name in outputs:
        parser.add_argument(f"--out-{name}", type=Path, required=True)
    parser.add_argument("--settings", type=lambda text: SimpleNamespace(**json.loads(text)), required=True)
    parser.add_argument("--threads", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    return parser.parse_args()


def record_of(step: str, args: argparse.Namespace, **more: object) -> dict:
    """What made an output: the step, its settings, the SHA-256 of its input files and of its code, versions.

    No clock, no host, no commit: the same settings, inputs and code give the same record. What `more` holds is left
    out of the settings.
    """
    files = {
        name: [sha256_of(path) for path in (value if isinstance(value, list) else [value])]
        for name, value in vars(args).items()
        if name not in ("settings", "threads") and not name.startswith("out_")
    }
    settings = {name: value for name, value in vars(args.settings).items() if name not in more}
    code = code_hash(f"lethe.steps.{step}")
    return {"step": step, "settings": settings, "inputs": files, "code": code, "environment": environment(), **more}


def use_threads(threads: int) -> None:
    """Let torch use this many cores; the number is part of what makes results repeat to the byte."""
    import torch

    torch.set_num_threads(threads)
