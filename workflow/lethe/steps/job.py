"""The frame of every job: its arguments, its log, the check of its inputs, its records, how it fails.

    python -m lethe.frame.start STEP [PLUGIN ...] --settings JSON [--threads N] [--read NAME PATH ...] [--out NAME PATH]

STEP is a module whose `run(job)` makes the outputs; PLUGINs are modules that it loads by name. What stands here, in the
records and in messages shapes no result: `lethe.records.code` leaves it out of the digest of a step's code.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING

from lethe.files.whole import written_whole
from lethe.frame.bars import BarsAsLines
from lethe.jobs import without_places
from lethe.messages import plain
from lethe.records.code import code_hash
from lethe.records.fingerprints import sha256_of
from lethe.records.records import checked_inputs, forget, what_made, write_records
from lethe.steps.failures import explained
from lethe.steps.gpus import take_gpu

if TYPE_CHECKING:
    import torch

TRACEBACKS = Path("logs") / "tracebacks"
DEVICE = "LETHE_DEVICE"  # the variable that says where models run: a login node cannot resolve `auto`
OFFLOAD = "LETHE_OFFLOAD"  # 1 where parts of a base wait on the CPU


@dataclass
class Job:
    """A job as its step knows it.

    modules: the step's module, then its plug-ins.  settings: nested objects stay dictionaries.  reads, out: paths by
    name.  hashes: SHA-256 of every input.  notes: what to say to whoever reads the results, (count, sentence) with `{}`
    for the count.  recorded: what else goes into the records of the outputs.
    """

    modules: list[str]
    settings: SimpleNamespace
    threads: int
    reads: dict[str, list[Path]]
    out: dict[str, Path]
    hashes: dict[Path, str] = field(default_factory=dict)
    notes: list[tuple[int, str]] = field(default_factory=list)
    recorded: dict[str, object] = field(default_factory=dict)
    gpu: IO[bytes] | None = None  # open while the job has a GPU to itself

    @property
    def step(self) -> str:
        """The module's name without `lethe.steps`."""
        return self.modules[0].removeprefix("lethe.").replace("steps.", "")

    def read(self, name: str) -> Path:
        """The one input of a name."""
        (path,) = self.reads[name]
        return path

    @cached_property
    def device(self) -> torch.device:
        """Where models run: of several GPUs one that is free, which the job then has as long as it lives."""
        from lethe.bases.devices import pick_device, repeat_results

        name, self.gpu = take_gpu(os.environ.get(DEVICE, "auto"))
        device = pick_device(name)
        repeat_results(device)
        return device

    @property
    def offload(self) -> bool:
        """Whether a base's parts wait on the CPU in jobs that only draw."""
        return os.environ.get(OFFLOAD) == "1"

    @property
    def code(self) -> str:
        """SHA-256 of the code that makes the outputs."""
        return code_hash(*self.modules)

    def note(self, count: int, sentence: str) -> None:
        """Say something about the outputs, where `count` is not 0."""
        if count:
            self.notes.append((count, sentence))

    def record(self, **more: object) -> dict:
        """What made an output, with the SHA-256 of its input files. What `more` holds is left out of the settings."""
        files = {name: [self.hashes.get(p) or sha256_of(p) for p in paths] for name, paths in self.reads.items()}
        settings = {name: without_places(value) for name, value in vars(self.settings).items() if name not in more}
        return what_made(self.step, settings, code=self.code, inputs=files, **more)

    def write_json(self, name: str, content: object) -> None:
        """Write an output as JSON."""
        with written_whole(self.out[name]) as part:
            part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def write_curve(self, name: str, losses: Sequence[float]) -> None:
        """Write an output as the loss of each step of a training."""
        rows = ["step,loss", *(f"{step},{loss!r}" for step, loss in enumerate(losses))]
        with written_whole(self.out[name]) as part:
            part.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run a step, then write a record of each output.

    Inputs that differ from their records and every exception end the process with exit code 1 and one sentence as the
    last line of the log, which goes to standard error (`lethe.steps.failures`); so does SIGTERM, by which SLURM
    announces that it will kill the job: nothing half-written stays. Bars of progress are lines in the log.
    """
    job, made_by = _job(arguments)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come to this process and to all of its group
        sys.exit(f"{job.step}: stopped by SIGTERM (a time limit, scancel or kill)")

    before = signal.signal(signal.SIGTERM, stop)
    stream = sys.stderr
    if not stream.isatty():
        sys.stderr = BarsAsLines(stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    made, less = list(job.out.values()), None
    try:
        job.hashes = checked_inputs([path for paths in job.reads.values() for path in paths])
        forget(made)
        module, *_ = [importlib.import_module(name) for name in job.modules]  # plug-ins before threads: they take torch
        less = getattr(module, "LESS_MEMORY", None)
        _use_threads(job.threads)
        module.run(job)
        notes = {"notes": job.notes} if job.notes else {}
        write_records(
            job.step,
            vars(job.settings),
            inputs=job.hashes,
            outputs=made,
            threads=job.threads,
            code=job.code,
            made_by=made_by,
            more=job.recorded | notes,
        )
    except Exception as error:
        nameless = isinstance(error, OSError) and error.errno is not None and error.filename is None
        where = f" (while making {', '.join(map(str, made))})" if nameless else ""
        logging.error("%s: %s%s", job.step, explained(error, less=less, folder=TRACEBACKS), plain(where))
        raise SystemExit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.stderr = stream
        if job.gpu is not None:
            job.gpu.close()


def _use_threads(threads: int) -> None:
    """Let torch, where the step has imported it, use so many cores: the number is part of what makes results repeat."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _job(arguments: list[str] | None) -> tuple[Job, str | None]:
    """The job of a command line, and the digest that decides whether its outputs are current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--read", nargs="+", action="append", default=[], metavar=("NAME", "PATH"))
    parser.add_argument("--out", nargs=2, action="append", default=[], metavar=("NAME", "PATH"))
    args = parser.parse_args(arguments)
    made_by = args.settings.pop("made_by", None)
    reads = {name: list(map(Path, paths)) for name, *paths in args.read}
    out = {name: Path(path) for name, path in args.out}
    return Job(args.modules, SimpleNamespace(**args.settings), args.threads, reads, out), made_by


if __name__ == "__main__":
    main()
