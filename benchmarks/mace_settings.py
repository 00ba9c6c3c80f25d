"""Sweep the settings of MACE on the emoji world: Acc_e, Acc_g, Acc_s and H_o of every combination, in one process.

    python benchmarks/mace_settings.py --threads 2

Run it from the repository root. It erases the concepts of the task `objects`. Samples use seeds outside the default
suites, so that settings are not chosen on the images that the table reports. The last line is a JSON list with one
object per combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch

from emoji import Emoji
from lethe.config.schema import over
from lethe.edits.low_rank import LowRank


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs=2, default=[101, 104], help="first and last seed")
    parser.add_argument("--kept-seeds", type=int, nargs=2, default=[101, 101], help="those of what stays")
    parser.add_argument("--train-preserve-scale", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1])
    parser.add_argument("--fuse-preserve-scale", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1])
    parser.add_argument("--preserve-weight", type=float, nargs="+", default=[30.0])
    parser.add_argument("--lamb", type=float, nargs="+", default=[1.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[50])
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--use-pooler", choices=["yes", "no"], nargs="+", default=["yes"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    emoji = Emoji()
    seeds, kept_seeds = (range(first, last + 1) for first, last in (args.seeds, args.kept_seeds))
    concepts = emoji.concepts
    pictures = [emoji.pictures(concept) for concept in concepts]
    moments = [emoji.moments(concept, concept.anchor) for concept in concepts]
    results = [{"method": "original", **emoji.scores(None, concepts, seeds=seeds, kept_seeds=kept_seeds)}]
    print(results[0], flush=True)
    loras: dict[tuple, list[dict[str, LowRank]]] = {}
    grid = itertools.product(
        args.train_preserve_scale,
        args.fuse_preserve_scale,
        args.preserve_weight,
        args.lamb,
        args.steps,
        args.learning_rate,
        args.use_pooler,
    )
    for train_scale, fuse_scale, weight, lamb, steps, learning_rate, pooler in grid:
        started = time.monotonic()
        scales = dict(train_preserve_scale=train_scale, fuse_preserve_scale=fuse_scale)
        chosen = scales | dict(preserve_weight=weight, lamb=lamb)
        training = dict(steps=steps, learning_rate=learning_rate, use_pooler=pooler == "yes")
        settings = over(emoji.settings, chosen | dict(scale_convention="paper", lora=training))
        key = (train_scale, weight, lamb, steps, learning_rate, pooler)
        if key not in loras:
            each = zip(concepts, pictures, moments, strict=True)
            loras[key] = [emoji.lora(concept, shown, [own], settings) for concept, shown, own in each]
        edit = emoji.joined(moments, loras[key], settings)
        scores = emoji.scores(edit, concepts, seeds=seeds, kept_seeds=kept_seeds)
        seconds = round(time.monotonic() - started, 1)
        results.append(dict(method="mace", **chosen, **training, **scores, seconds=seconds))
        print(results[-1], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
