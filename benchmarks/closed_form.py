"""Refinement and fusion: this library against the equations solved for each projection, as published.

    python benchmarks/closed_form.py

Both sides start from the embeddings of 30 prompts x 77 tokens a concept (random, seeded) and end with the weights of
every cross-attention projection. The published side (benchmarks/published.py) adds up as the published program does:
for each projection, one product over the prompts for each position, as a batch. Kinder to it is one matrix product
for each prompt (`by_prompt`), which writes less to memory.

By default the published side runs for one projection of each shape and counts its time as often as that shape occurs,
since projections of one shape cost the same; --all-layers runs them all.
The last line is a JSON object: `ratio_5` and `ratio_50` (published / ours), the same `_by_prompt`, the largest relative
difference between our weights and those of the published side, and the seconds of all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

import harness
import published
from lethe.bases.unet import PROJECTIONS
from lethe.edits.low_rank import LowRank
from lethe.erasure.moments import aligned_moments, second_moment
from lethe.methods.mace.join import MaceSettings, erase

PROMPTS, TOKENS, PHRASE = 30, 77, slice(5, 7)
REFINE_SCALE, FUSE_SCALE, RIDGE = 0.1, 1.0, 1.0
SETTINGS = MaceSettings("paper", REFINE_SCALE, RIDGE, FUSE_SCALE)
SUMS = {"by_position": published.by_position, "by_prompt": published.by_prompt}
SHAPES = {  # width of the text states, and how many attn2 layers have which width
    "sd14": (768, {320: 5, 640: 5, 1280: 6}),
    "sd21": (1024, {320: 5, 640: 5, 1280: 6}),
    "sdxl": (2048, {640: 10, 1280: 60}),
    "tiny": (24, {8: 2, 12: 1}),
}


@dataclass
class Case:
    """Weights of all projections, and each concept's prompts: `[prompts, tokens, d]` with the phrase and its anchor."""

    weights: dict[str, Tensor]
    phrases: list[Tensor]
    anchors: list[Tensor]
    loras: list[dict[str, LowRank]]
    prior: Tensor

    def pairs(self, concept: int) -> tuple[Tensor, Tensor]:
        """The words around the phrase in both prompts, `[prompts, tokens - phrase, d]`."""
        return _around(self.phrases[concept]), _around(self.anchors[concept])


def main() -> None:
    """Measure."""
    made = harness.parser(__doc__)
    made.add_argument("--shape", choices=["sd14", "sd21", "sdxl"], default="sd14")
    made.add_argument("--concepts", type=int, nargs="+", default=[5, 50])
    made.add_argument("--prompts", type=int, default=PROMPTS, help="of each concept")
    made.add_argument("--all-layers", action="store_true", help="solve every projection on the published side too")
    args = harness.start(made)
    shape = "tiny" if args.tiny else args.shape
    result: dict[str, object] = {}
    seconds: dict[str, object] = {}
    for concepts in args.concepts:
        case = make_case(shape, concepts, prompts=3 if args.tiny else args.prompts)
        groups = groups_of(case, every=args.all_layers)
        times, difference = measure(case, groups, args.rounds)
        seconds |= {f"{side}_{concepts}": taken for side, taken in times.items()}
        result[f"ratio_{concepts}"] = times["by_position"]["cpu"] / times["ours"]["cpu"]
        result[f"ratio_{concepts}_by_prompt"] = times["by_prompt"]["cpu"] / times["ours"]["cpu"]
        result[f"difference_{concepts}"] = difference
        layers = sum(len(names) for names, _ in groups)
        result["published_projections_measured"] = f"{layers} of {len(case.weights)}"
    harness.finish(args, **result, seconds=seconds)


def measure(case: Case, groups: list[tuple[list[str], int]], rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Seconds of `ours` and of each of `SUMS` (for all projections), and the largest relative difference between the
    weights of the first and of the others."""
    found: dict[str, dict[str, Tensor]] = {side: {} for side in ("ours", *SUMS)}
    sides = {"ours": lambda: found["ours"].update(ours(case))}
    for side, add in SUMS.items():
        for index, (names, _) in enumerate(groups):
            sides[f"{side} {index}"] = lambda side=side, add=add, names=names: found[side].update(
                {name: theirs(case, name, add) for name in names}
            )
    times = harness.in_turns(rounds, sides)
    apart = [
        ((weight - found["ours"][name]).norm() / found["ours"][name].norm()).item()
        for side in SUMS
        for name, weight in found[side].items()
    ]
    return {"ours": times["ours"]} | {side: times_of_all(times, groups, side) for side in SUMS}, max(apart)


def ours(case: Case) -> dict[str, Tensor]:
    """Each concept's moments in float64, then the join."""
    around = _around(torch.arange(TOKENS)[None])[0].tolist()
    moments = [
        aligned_moments(phrase, anchor, [(around, around)] * len(phrase))
        for phrase, anchor in zip(case.phrases, case.anchors, strict=True)
    ]
    return erase(case.weights, moments, case.loras, case.prior, SETTINGS)


def theirs(case: Case, name: str, add: published.Sum) -> Tensor:
    """One projection by Eq. 2 and Eq. 7."""
    weight, prior = case.weights[name], case.prior.float()
    pairs = map(case.pairs, range(len(case.phrases)))
    refined = published.refine(weight, pairs, prior, scale=REFINE_SCALE, ridge=RIDGE, add=add)
    updates = [lora[name].up @ lora[name].down for lora in case.loras]
    concepts = zip(updates, case.phrases, strict=True)
    return published.fuse(weight, refined, concepts, prior, scale=FUSE_SCALE, ridge=RIDGE, add=add)


def make_case(shape: str, concepts: int, *, prompts: int) -> Case:
    """Random numbers in the shapes of a base."""
    generator = torch.Generator().manual_seed(concepts)
    d, _ = SHAPES[shape]

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    widths = widths_of(shape)
    phrases = [draw(prompts, TOKENS, d) for _ in range(concepts)]
    return Case(
        {name: draw(out, d) / d**0.5 for name, out in widths.items()},
        phrases,
        [phrase + 0.3 * draw(prompts, TOKENS, d) for phrase in phrases],
        [{name: LowRank(draw(1, d), draw(out, 1) / d) for name, out in widths.items()} for _ in range(concepts)],
        second_moment([draw(4 * d, d)]).matrix,
    )


def widths_of(shape: str) -> dict[str, int]:
    """How many rows each projection of a base has, by a name of its own."""
    _, layers = SHAPES[shape]
    return {f"{out}.{k}.{part}": out for out, n in layers.items() for k in range(n) for part in PROJECTIONS}


def groups_of(case: Case, *, every: bool) -> list[tuple[list[str], int]]:
    """Projections to time together on the published side, and how often their time counts."""
    if every:
        return [(list(case.weights), 1)]
    counts = Counter(weight.shape for weight in case.weights.values())
    first = {weight.shape: name for name, weight in reversed(case.weights.items())}
    return [([first[shape]], count) for shape, count in counts.items()]


def times_of_all(
    times: dict[str, dict[str, float]], groups: list[tuple[list[str], int]], side: str
) -> dict[str, float]:
    """Seconds of a side for all projections, from those of the groups, timed under its name and their index."""
    return {
        clock: sum(times[f"{side} {index}"][clock] * count for index, (_, count) in enumerate(groups))
        for clock in ("cpu", "wall")
    }


def _around(states: Tensor) -> Tensor:
    return torch.cat([states[:, : PHRASE.start], states[:, PHRASE.stop :]], dim=1)


if __name__ == "__main__":
    main()
