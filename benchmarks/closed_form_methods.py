"""Closed-form methods over 100 concepts at Stable Diffusion 1.4's shapes, and MACE's join: time and peak memory.

    python benchmarks/closed_form_methods.py

Each method's `erase` runs in a process of its own, side by side in turns, with the settings of its manifest but for
lists of names: 100 to preserve (UCE, RECE, OCE, lethe), 1,000 to retain (SPEED). Weights are random numbers: 32
projections of 768 columns, and a CLIPTextModel of Stable Diffusion 1.4's shape but for its one layer (--layers 12 has
all). Its tokenizer is that of the emoji world.

The methods but MACE make their text states within `erase`: `text` is what the encoder takes of the time, for
`prompts` prompts, and `solve` all the rest, tokenising included. MACE's join reads moments and LoRAs from files, as
benchmarks/scale.py does; `mace_moments` is the job before it, for one concept of 30 prompts and as many of its anchor,
so it counts as often as there are concepts.

The last line is a JSON object: for each method processor seconds `text` and `solve`, `wall` seconds of both, `prompts`,
and in MiB `peak_mib` of the process and `before_mib`, its peak when `erase` begins: libraries, weights and encoder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from transformers import CLIPTextModel

import harness
from closed_form import PROMPTS, SHAPES, widths_of
from lethe.api import settings_of
from lethe.bases.base import Base
from lethe.bases.text import TextEncoders
from lethe.erasure.moments import concept_moments
from lethe.inputs.concepts import Concept
from lethe.plugins import manifest
from prior import WORDS, text_model
from scale import join, make_files

KEPT = {"uce": "preserve", "rece": "preserve", "speed": "retain", "oce": "preserve", "lethe": "retain"}  # their setting
SIDES = (*KEPT, "mace", "mace_moments")


class Encoding:
    """Counts what a text encoder reads, and the processor seconds that it takes."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        self.seconds, self.prompts, self._began = 0.0, 0, 0.0
        encoder.register_forward_pre_hook(self._begin)
        encoder.register_forward_hook(self._end)

    def _begin(self, encoder: CLIPTextModel, inputs: tuple) -> None:
        self._began = time.process_time()

    def _end(self, encoder: CLIPTextModel, inputs: tuple, output: object) -> None:
        self.seconds += time.process_time() - self._began
        self.prompts += len(inputs[0])


def main() -> None:
    """Run one side after another, each in a process of its own."""
    made = harness.parser(__doc__)
    made.add_argument("--concepts", type=int, default=100)
    made.add_argument("--preserve", type=int, default=100, help="names that methods but SPEED preserve")
    made.add_argument("--retain", type=int, default=1000, help="names that SPEED retains")
    made.add_argument("--layers", type=int, default=1, help="of the text encoder")
    made.add_argument("--folder", type=Path, help="where the files of MACE's join lie (for the inner runs)")
    made.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES, help="which of them")
    made.add_argument("--side", choices=SIDES, help="run this one in this process and print what it took")
    args = harness.start(made)
    if args.tiny:
        args.concepts, args.preserve, args.retain = 5, 5, 5  # SPEED must find a direction that no name takes
    shape = "tiny" if args.tiny else "sd14"
    if args.side is not None:
        print(json.dumps(joined(shape, args) if args.side == "mace" else encoded(shape, args)))
        return
    options = {f"--{name}": getattr(args, name) for name in ("threads", "concepts", "preserve", "retain", "layers")}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
    with tempfile.TemporaryDirectory() as folder:
        make_files(shape, Path(folder))
        for _ in range(args.rounds):
            for side in args.sides:
                own = options | {"--folder": folder, "--side": side}
                runs[side].append(harness.alone(__file__, own, *["--tiny"] * args.tiny))
    harness.finish(args, **{side: harness.least_of(found) for side, found in runs.items()})


def joined(shape: str, args: argparse.Namespace) -> dict[str, float]:
    """What MACE's join took."""
    taken = join(shape, args.folder, args.concepts)
    return {"text": 0.0, "solve": taken.pop("cpu"), "prompts": 0, **taken}


def encoded(shape: str, args: argparse.Namespace) -> dict[str, float]:
    """What a side took that makes its own text states."""
    text = text_model(tiny=args.tiny, layers=args.layers)
    work = moments_of(text) if args.side == "mace_moments" else erasing(shape, text, args)
    encoding = Encoding(text.encoders[0])
    before = harness.peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    taken = {"text": encoding.seconds, "solve": cpu - encoding.seconds, "prompts": encoding.prompts, "wall": wall}
    return taken | {"before_mib": before, "peak_mib": harness.peak_mib()}


def erasing(shape: str, text: TextEncoders, args: argparse.Namespace) -> Callable[[], object]:
    """A method's `erase` of all concepts."""
    d, _ = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    base = Base({}, torch.device("cpu"), torch.float32)
    base.text = text
    widths = widths_of(shape)
    base.projections = {name: torch.randn(out, d, generator=generator) / d**0.5 for name, out in widths.items()}
    said = manifest("methods", args.side)
    names = numbered(args.concepts, args.retain if args.side == "speed" else args.preserve)
    settings = settings_of(said, {KEPT[args.side]: names}) | ({"seed": 0} if said.more.get("draws") else {})
    concepts = [Concept(name, "object", "sky") for name in numbered(0, args.concepts)]
    erase = importlib.import_module(said.module).erase
    return lambda: erase(base, concepts, settings, dict.fromkeys(said.entries_of("priors")))


def moments_of(text: TextEncoders) -> Callable[[], object]:
    """The moments of one concept."""
    templates = [f"{word} {k} and the {{}}" for k, word in zip(range(PROMPTS), cycle(WORDS), strict=False)]
    return lambda: concept_moments(text, *numbered(0, 1), "sky", templates)


def numbered(first: int, count: int) -> list[str]:
    """So many names, each with a number of its own."""
    return [f"{WORDS[k % len(WORDS)]} {k}" for k in range(first, first + count)]


if __name__ == "__main__":
    main()
