"""Seconds of an image by shard size and batch: a job loads its model once, so that few images a job cost more each.

    python benchmarks/shards.py

Each shard is a process of its own that imports, loads the emoji model, draws, and writes the shard's PNGs, as a cold
job of the step `sample` does. Seconds are of the processor, of the whole process; `loading` is what it took before the
first image. The last line is a JSON object: `by_size` at the largest batch and `by_batch` at the largest size, seconds
of an image each, and `times`, how much more an image costs in the smallest shard than in the largest.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pandas as pd

import harness

MODEL = harness.ROOT / "resources" / "emoji" / "pipeline"


def main() -> None:
    """One process after another."""
    made = harness.parser(__doc__)
    made.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 30, 120], help="images of a shard")
    made.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 30], help="images drawn at once")
    made.add_argument("--steps", type=int, default=12)
    made.add_argument("--shard", type=int, nargs=2, help="draw this many images, so many at once; for the inner runs")
    args = harness.start(made)
    if args.shard is not None:
        print(json.dumps(shard(*args.shard, steps=args.steps)))
        return
    if args.tiny:
        args.sizes, args.batches, args.steps = [2], [2], 1
    size, batch = max(args.sizes), max(args.batches)
    asked = dict.fromkeys([*((one, batch) for one in args.sizes), *((size, one) for one in args.batches)])
    found = {one: [] for one in asked}
    for _ in range(args.rounds):
        for one in asked:
            options = {"--threads": args.threads, "--steps": args.steps}
            found[one].append(harness.alone(__file__, options, "--shard", *map(str, one)))
    least = {one: harness.least_of(runs) for one, runs in found.items()}
    each = {one: figures["cpu"] / one[0] for one, figures in least.items()}
    harness.finish(
        args,
        by_size={one: each[one, batch] for one in args.sizes},
        by_batch={one: each[size, one] for one in args.batches},
        times=each[min(args.sizes), batch] / each[size, batch],
        loading=min(figures["loading"] for figures in least.values()),
        peak_mib={f"{size} by {batch}": figures["peak_mib"] for (size, batch), figures in least.items()},
    )


def shard(size: int, batch: int, *, steps: int) -> dict[str, float]:
    """Draw and write one shard in this process; its processor seconds so far, imports included, and its peak memory."""
    from lethe import api
    from lethe.bases.pipeline import use_scheduler
    from lethe.bases.sampling import sample_rows
    from lethe.files.shards import write_shard

    pipeline = api.load(MODEL, device="cpu")
    use_scheduler(pipeline, "dpm-solver++")
    loading = time.process_time()
    rows = pd.DataFrame({"type": "ship", "prompt": "a photo of the ship", "evaluation_seed": range(size)})
    images = sample_rows(pipeline, rows, steps=steps, guidance=4.0, batch=batch)
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder) / "shard.zip", rows, images, {})
    return {"cpu": time.process_time(), "loading": loading, "peak_mib": harness.peak_mib()}


if __name__ == "__main__":
    main()
