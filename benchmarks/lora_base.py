"""What a concept's LoRA is best trained on: H_o of three choices on the emoji world, over disjoint sets of concepts.

    python benchmarks/lora_base.py --threads 2

`concept` trains it on the base refined for that concept alone, `task` on the base refined for the whole set, `original`
on the base as it is; `none` is refinement alone, joined with LoRAs that change nothing. The join is the same for all.
Every object of the world is erased once: six sets of five, dealt out in the order of the table. Seeds are outside those
of the default suites. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emoji import Emoji
from lethe.edits.low_rank import LowRank
from lethe.inputs.concepts import Concept

ANCHORS = ("ground", "sky", "street")
CHOICES = ("concept", "task", "original", "none")


def world_concepts(table: str) -> list[Concept]:
    """Every object of the emoji world as a concept; anchors are dealt out in turn."""
    rows = pd.read_csv(table, sep="\t", keep_default_na=False).itertuples()
    return [
        Concept(row.object, "object", ANCHORS[k % len(ANCHORS)], tuple(w.strip() for w in row.synonyms.split(";")))
        for k, row in enumerate(rows)
    ]


def nothing(projections: dict[str, Tensor]) -> dict[str, LowRank]:
    """A LoRA of rank 1 that changes no projection W `[out, d]`."""
    return {
        name: LowRank(torch.zeros(1, weight.shape[1]), torch.zeros(weight.shape[0], 1))
        for name, weight in projections.items()
    }


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", type=int, default=6, help="how many sets to deal the objects into")
    parser.add_argument("--seeds", type=int, nargs=2, default=[201, 203], help="of erased objects and synonyms")
    parser.add_argument("--kept-seeds", type=int, nargs=2, default=[201, 202], help="of all other objects")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    emoji = Emoji()
    concepts = world_concepts(emoji.evaluation["classes"]["table"])
    seeds, kept = (range(first, last + 1) for first, last in (args.seeds, args.kept_seeds))
    rows = []
    for number in range(args.sets):
        chosen = concepts[number :: args.sets]
        pictures = [emoji.pictures(concept) for concept in chosen]
        moments = [emoji.moments(concept, concept.anchor) for concept in chosen]
        refined_for = {
            "concept": [[own] for own in moments],
            "task": [moments] * len(chosen),
            "original": [[emoji.moments(concept, concept.name)] for concept in chosen],
        }
        found = {"before": emoji.scores(None, chosen, seeds=seeds, kept_seeds=kept)}
        for choice in args.choices:
            if choice == "none":
                loras = [nothing(emoji.base.projections)] * len(chosen)
            else:
                each = zip(chosen, pictures, refined_for[choice], strict=True)
                loras = [emoji.lora(concept, shown, of, emoji.settings) for concept, shown, of in each]
            edit = emoji.joined(moments, loras, emoji.settings)
            found[choice] = emoji.scores(edit, chosen, seeds=seeds, kept_seeds=kept)
        for choice, score in found.items():
            rows.append({"set": number, "lora_base": choice, **score})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    summary = table.drop(columns="set").groupby("lora_base", sort=False).mean().round(2)
    by_set = table.pivot(index="set", columns="lora_base", values="h_o")
    for choice in args.choices if "task" in by_set else ():
        difference = by_set[choice] - by_set["task"]
        summary.loc[choice, "h_o_minus_task"] = round(float(difference.mean()), 2)
        summary.loc[choice, "standard_error"] = round(float(difference.std(ddof=1) / np.sqrt(len(difference))), 2)
    print(summary.to_string())
    print(json.dumps({"sets": args.sets, "mean": summary.T.to_dict(), "rows": rows}))


if __name__ == "__main__":
    main()
