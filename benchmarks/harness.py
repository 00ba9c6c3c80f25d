"""What the benchmarks share: the library's path, times taken in turns, and the closing line.

Import it before `lethe`: it puts workflow/ on the path, so that `python benchmarks/x.py` runs as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=1, help="threads of torch")
    made.add_argument("--rounds", type=int, default=3, help="how often each side is timed; the least time counts")
    made.add_argument("--tiny", action="store_true", help="the same in seconds on small shapes, to see that it runs")
    return made


def start(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the threads."""
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    return args


def in_turns(rounds: int, sides: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Time the sides A B A B ...; the least of each, in seconds: `cpu` of all threads of this process, and `wall`.

    Ratios are of `cpu`: what else runs on the machine hardly moves it.
    """
    least = {name: {"cpu": float("inf"), "wall": float("inf")} for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            least[name] = {clock: min(taken[clock], least[name][clock]) for clock in taken}
    return least


def alone(file: str, options: Mapping[str, object], *flags: str) -> dict[str, float]:
    """Run a benchmark's file in a process of its own; the JSON object of its last line."""
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, file, *words, *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def least_of(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The least of each figure over runs of the same."""
    return {key: min(run[key] for run in runs) for key in runs[0]}


def finish(args: argparse.Namespace, **result: object) -> None:
    """Print the result, the options and the machine as one line of JSON."""
    print(json.dumps(rounded(result) | {"options": vars(args), "machine": machine()}))


def rounded(value: object) -> object:
    """Floats to four digits, wherever they are."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine() -> dict[str, object]:
    """Processor, cores, versions and the day."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
