"""Joining 10, 100 and 1,000 concepts: time and peak memory.

    python benchmarks/scale.py

Each number of concepts is joined in a process of its own, on shapes of Stable Diffusion 1.4 (32 projections of 768
columns): moments and LoRAs are read from files one concept at a time. There are 10 such files (random numbers, 15 MB
each) and their names repeat, so that 1,000 concepts need no 15 GB of disk; what a disk costs is therefore not measured.
The moments themselves are one job for each concept and cost the same however many there are.

The last line is a JSON object: `memory_growth`, peak resident memory of the largest number over that of the smallest,
less one; `time_exponent`, the slope of log time over log concepts between the two largest numbers (1 is linear); and
seconds and MiB for each number.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import harness
from closed_form import SETTINGS, SHAPES, widths_of
from lethe.edits.adapters import load_lora
from lethe.erasure.moments import ConceptMoments, load_concept_moments, save_concept_moments
from lethe.files.loaded import Loaded
from lethe.methods.mace.join import erase

FILES = 10


def main() -> None:
    """Make the files, then join in one process after another."""
    made = harness.parser(__doc__)
    made.add_argument("--concepts", type=int, nargs="+", default=[10, 100, 1000])
    made.add_argument("--folder", type=Path, help="where the files lie (filled if there is none; for the inner runs)")
    made.add_argument("--join", type=int, help="join this many in this process and print what it took")
    args = harness.start(made)
    shape = "tiny" if args.tiny else "sd14"
    if args.join is not None:
        print(json.dumps(join(shape, args.folder, args.join)))
        return
    counts = sorted(args.concepts)
    with tempfile.TemporaryDirectory() as folder:
        make_files(shape, Path(folder))
        runs = {n: [] for n in counts}
        for _ in range(args.rounds):
            for n in counts:
                options = {"--folder": folder, "--join": n, "--threads": args.threads}
                runs[n].append(harness.alone(__file__, options, *["--tiny"] * args.tiny))
    least = {n: harness.least_of(found) for n, found in runs.items()}
    first, before, last = counts[0], counts[-2], counts[-1]
    harness.finish(
        args,
        memory_growth=least[last]["peak_mib"] / least[first]["peak_mib"] - 1,
        time_exponent=math.log(least[last]["cpu"] / least[before]["cpu"]) / math.log(last / before),
        seconds_per_concept=(least[last]["cpu"] - least[first]["cpu"]) / (last - first),
        joins=least,
    )


def join(shape: str, folder: Path, concepts: int) -> dict[str, float]:
    """Join `concepts` concepts; its seconds, and the peak resident memory of the process before and after, in MiB."""
    d, _ = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(out, d, generator=generator) for name, out in widths_of(shape).items()}
    moments = [folder / f"moments{k % FILES}.safetensors" for k in range(concepts)]
    loras = [folder / f"lora{k % FILES}.safetensors" for k in range(concepts)]
    before = harness.peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    erase(weights, Loaded(load_concept_moments, moments), Loaded(load_lora, loras), torch.eye(d).double(), SETTINGS)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "before_mib": before,
        "peak_mib": harness.peak_mib(),
    }


def make_files(shape: str, folder: Path) -> None:
    """Moments and LoRAs of ten concepts."""
    d, _ = SHAPES[shape]
    for k in range(FILES):
        generator = torch.Generator().manual_seed(k)
        f, g = (torch.randn(2 * d, d, generator=generator, dtype=torch.float64) for _ in range(2))
        moments = ConceptMoments(f.mT @ f, g.mT @ f, f.mT @ f)
        save_concept_moments(folder / f"moments{k}.safetensors", moments, {})
        updates = {}
        for name, out in widths_of(shape).items():
            updates[f"unet.{name}.lora_A.weight"] = torch.randn(1, d, generator=generator)
            updates[f"unet.{name}.lora_B.weight"] = torch.randn(out, 1, generator=generator) / d
        save_file(updates, folder / f"lora{k}.safetensors")


if __name__ == "__main__":
    main()
