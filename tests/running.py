"""Run the repository's Snakefile in a folder, as a person would; play a host that it fetches from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import psutil

from lethe.frame.start import WARM

ROOT = Path(__file__).parents[1]


def snakemake(
    folder: Path,
    *arguments: str,
    rules: Path = ROOT / "Snakefile",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run snakemake in the repository, with `folder` as working directory, and return what it printed."""
    return ended(started(folder, *arguments, rules=rules, environment=environment))


def started(
    folder: Path,
    *arguments: str,
    rules: Path = ROOT / "Snakefile",
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """The same, still running; with the variables of the fixture `forked`, a fork as well."""
    # A SLURM that is installed but does not run would hold up each start by seconds: its plugin asks `scontrol`.
    own = {"SLURM_CONF": os.devnull, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    variables = os.environ | own | dict(environment or {})
    variables.pop("PYTEST_CURRENT_TEST", None)  # with which no two processes would be alike
    program = [str(ROOT / "tests/forked.py")] if variables.get(WARM, "0") != "0" else ["-m", "snakemake"]
    if program[0] != "-m":
        variables["PYTHONPATH"] = str(ROOT / "workflow")
        variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # else numpy starts threads
    own_file = []
    if "--configfile" not in arguments and (file := folder / "config" / "config.yaml").is_file():
        own_file = ["--configfile", str(file.absolute())]
    command = [sys.executable, *program, *own_file, "-s", str(rules), "-d", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)


def ended(run: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for a run to end."""
    with run:
        try:
            out, err = run.communicate(timeout=3600)
        except BaseException:
            run.kill()
            raise
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


def step_command(
    step: str,
    settings: Mapping,
    reads: Mapping[str, Path | Sequence[Path]],
    out: Mapping[str, Path],
    *,
    threads: int = 1,
) -> list[str]:
    """The command of a job, as a rule gives it."""
    command = [sys.executable, "-m", "lethe.steps.job", f"lethe.steps.{step}", "--settings", json.dumps(settings)]
    command += ["--threads", str(threads)]
    for name, paths in reads.items():
        command += ["--read", name, *map(str, [paths] if isinstance(paths, Path) else paths)]
    for name, path in out.items():
        command += ["--out", name, str(path)]
    return command


def process_of(folder: Path, step: str) -> psutil.Process:
    """The process of a step in a working directory, as soon as there is one."""
    for _ in range(1200):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                # As an argument of its own: python's, not its shell's.
                if f"lethe.steps.{step}" in process.cmdline() and process.cwd() == str(folder.resolve()):
                    return process
        time.sleep(0.1)
    raise AssertionError(f"{step} did not start in {folder} within two minutes")


def processes_named(name: str) -> Iterator[psutil.Process]:
    """Processes of a name, which they may have given themselves; psutil keeps the first one that it saw."""
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                yield psutil.Process(pid)


def warm_process_of(folder: Path, step: str) -> psutil.Process:
    """The process of a step that started warm in a working directory, as soon as there is one."""
    for _ in range(6000):
        for process in processes_named(f"lethe {step}"):
            with suppress(psutil.Error):
                if process.cwd() == str(folder.resolve()):
                    return process
        time.sleep(0.02)
    raise AssertionError(f"{step} did not start in {folder} within two minutes")


@contextmanager
def emptied_of_processes(folder: Path) -> Iterator[Path]:
    """The folder; whatever still runs in it when the block ends, as after a failed test, is killed."""
    try:
        yield folder
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cwd() == str(folder.resolve()):
                    process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a working directory's results, hidden ones too, but for the records, which tell the time."""
    results = folder / "results"
    names = {path.relative_to(results).as_posix(): path for path in results.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("provenance/")}


def planned(output: str) -> dict[str, int]:
    """Jobs by rule from the table that a dry run prints, or from the line with which a run begins."""
    lines = re.findall(r"^\d+ jobs: (.+)$", output, re.MULTILINE)
    counts = re.findall(r"(\w+) (\d+)", lines[0]) if lines else re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)
    return {rule: int(n) for rule, n in counts if rule != "total"}


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a local HTTP server that lives while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with mock.patch.dict(os.environ, no_proxy="127.0.0.1"):
            yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def coco_file(path: Path, captions: list[str]) -> Path:
    """A file in the form of COCO's caption annotations."""
    annotations = [{"image_id": 9 - k, "id": 40 + k, "caption": caption} for k, caption in enumerate(captions)]
    content = {"info": {}, "images": [{"id": k} for k in range(10)], "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(content))
    return path
