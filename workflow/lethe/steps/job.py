"""What every step does the same way: its arguments, its log, the check of its inputs, its records, how it fails."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from lethe.messages import plain
from lethe.plan import without_places
from lethe.records.code import code_hash, environment
from lethe.records.fingerprints import sha256_of
from lethe.records.records import checked_inputs, forget, write_records
from lethe.steps.failures import explained

TRACEBACKS = Path("logs") / "tracebacks"
_OWN = (
    "settings",
    "threads",
    "made_by",
    "input_hashes",
    "also_recorded",
)  # what a step's arguments hold besides its files


@contextmanager
def step(
    name: str,
    description: str,
    *,
    inputs: Sequence[str] = (),
    lists: Sequence[str] = (),
    outputs: Sequence[str],
    reads: Callable[[SimpleNamespace], Iterable[Path]] = lambda settings: (),
    less: str | None = None,
) -> Iterator[argparse.Namespace]:
    """Run the block as the step `name` with its arguments, then write a record of each output.

    The command line has `--<input> PATH`, `--<list> PATH ...`, `--out-<output> PATH`, `--settings JSON` and
    `--threads N`. Settings become a namespace, nested objects stay dictionaries; of them `made_by`, the digest that
    decides whether the outputs are current, goes into the record alone. `reads` names input files in the settings. What
    the block puts into the arguments' `also_recorded` goes into the record.

    Inputs that differ from their records and every exception end the process with exit code 1 and one sentence as the
    last line of the log, which goes to standard error (`lethe.steps.failures`; `less` names the setting that takes
    less memory); so does SIGTERM, by which SLURM announces that it will kill the job: nothing half-written stays.
    """
    stop = f"{name}: stopped by SIGTERM (a time limit, scancel or kill)"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(stop))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    args = _arguments(description, inputs, lists, outputs)
    made = [value for key, value in vars(args).items() if key.startswith("out_")]
    try:
        read = [path for paths in _inputs(args).values() for path in paths]
        args.input_hashes = checked_inputs([*read, *map(Path, reads(args.settings))])
        forget(made)
        yield args
        write_records(
            name,
            vars(args.settings),
            inputs=args.input_hashes,
            outputs=made,
            threads=args.threads,
            made_by=args.made_by,
            more=args.also_recorded,
        )
    except Exception as error:
        nameless = isinstance(error, OSError) and error.errno is not None and error.filename is None
        where = f" (while making {', '.join(map(str, made))})" if nameless else ""
        logging.error("%s: %s%s", name, explained(error, less=less, folder=TRACEBACKS), plain(where))
        raise SystemExit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def record_of(step: str, args: argparse.Namespace, **more: object) -> dict:
    """What made an output: the step, its settings, the SHA-256 of its input files and of its code, versions.

    No clock, no host, no commit: the same settings, inputs and code give the same record. What `more` holds is left
    out of the settings.
    """
    known = vars(args).get("input_hashes", {})
    files = {name: [known.get(p) or sha256_of(p) for p in paths] for name, paths in _inputs(args).items()}
    settings = {name: without_places(value) for name, value in vars(args.settings).items() if name not in more}
    code = code_hash(f"lethe.steps.{step}")
    return {"step": step, "settings": settings, "inputs": files, "code": code, "environment": environment(), **more}


def use_threads(threads: int) -> None:
    """Let torch use this many cores; the number is part of what makes results repeat to the byte."""
    import torch

    torch.set_num_threads(threads)


def _arguments(
    description: str, inputs: Sequence[str], lists: Sequence[str], outputs: Sequence[str]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for name in inputs:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in lists:
        parser.add_argument(f"--{name}", type=Path, nargs="*", required=True)
    for name in outputs:
        parser.add_argument(f"--out-{name}", type=Path, required=True)
    parser.add_argument("--settings", type=lambda text: SimpleNamespace(**json.loads(text)), required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(input_hashes={}, also_recorded={})
    args = parser.parse_args()
    args.made_by = vars(args.settings).pop("made_by", None)
    return args


def _inputs(args: argparse.Namespace) -> dict[str, list[Path]]:
    """Paths of the inputs by the name of their argument."""
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in vars(args).items()
        if name not in _OWN and not name.startswith("out_")
    }
