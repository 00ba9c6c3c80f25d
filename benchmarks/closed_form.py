"""Refinement and fusion: this library against the equations solved for each projection, as published.

    python benchmarks/closed_form.py

Both sides start from the embeddings of 30 prompts x 77 tokens a concept (random, seeded) and end with the weights of
every cross-attention projection. The published side (benchmarks/published.py) forms one outer product for each token,
as the sums stand in the equations. Its time is linear in the prompts, so a few (--timed-prompts) are timed, less the
time without any, and counted as often as there are prompts. Kinder to it is one matrix product for each prompt
(`by_prompt`), which runs for all prompts and whose weights are compared with ours.

By default the published side runs for one projection of each shape and counts its time as often as that shape occurs,
since projections of one shape cost the same; --all-layers runs them all.
The last line is a JSON object: `ratio_5` and `ratio_50` (published / ours), the same `_by_prompt`, the largest relative
difference between the two sides' weights, and the seconds of all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

import harness
import published
from lethe.edits.low_rank import LowRank
from lethe.erasure.moments import ConceptMoments, second_moment
from lethe.methods.mace.join import MaceSettings, erase

PROMPTS, TOKENS, PHRASE = 30, 77, slice(5, 7)
REFINE_SCALE, FUSE_SCALE, RIDGE = 0.1, 1.0, 1.0
SETTINGS = MaceSettings("paper", REFINE_SCALE, RIDGE, FUSE_SCALE)
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

    def first_prompts(self, n: int) -> Case:
        """The first concept alone, with its first n prompts."""
        return Case(self.weights, [self.phrases[0][:n]], [self.anchors[0][:n]], self.loras[:1], self.prior)


def main() -> None:
    """Measure."""
    made = harness.parser(__doc__)
    made.add_argument("--shape", choices=["sd14", "sd21", "sdxl"], default="sd14")
    made.add_argument("--concepts", type=int, nargs="+", default=[5, 50])
    made.add_argument("--prompts", type=int, default=PROMPTS, help="of each concept")
    made.add_argument("--all-layers", action="store_true", help="solve every projection on the published side too")
    made.add_argument("--timed-prompts", type=int, default=4, help="how many the published side is timed with")
    args = harness.start(made)
    shape = "tiny" if args.tiny else args.shape
    result: dict[str, object] = {}
    seconds: dict[str, object] = {}
    for concepts in args.concepts:
        case = make_case(shape, concepts, prompts=3 if args.tiny else args.prompts)
        groups = groups_of(case, every=args.all_layers)
        times, difference = measure(case, groups, args.rounds, timed_prompts=args.timed_prompts)
        seconds |= {f"{side}_{concepts}": taken for side, taken in times.items()}
        result[f"ratio_{concepts}"] = times["by_token"]["cpu"] / times["ours"]["cpu"]
        result[f"ratio_{concepts}_by_prompt"] = times["by_prompt"]["cpu"] / times["ours"]["cpu"]
        result[f"difference_{concepts}"] = difference
        layers = sum(len(names) for names, _ in groups)
        result["published_projections_measured"] = f"{layers} of {len(case.weights)}"
    harness.finish(args, **result, seconds=seconds)


def measure(
    case: Case, groups: list[tuple[list[str], int]], rounds: int, *, timed_prompts: int
) -> tuple[dict[str, dict[str, float]], float]:
    """Seconds of `ours`, `by_prompt` and `by_token` (the last two for all projections), and the largest relative
    difference between the weights of the first two."""
    found: dict[str, dict[str, Tensor]] = {"ours": {}, "by_prompt": {}}
    sides = {"ours": lambda: found["ours"].update(ours(case))}
    few, none = case.first_prompts(timed_prompts), case.first_prompts(0)
    for index, (names, _) in enumerate(groups):
        sides[f"by_prompt {index}"] = lambda names=names: found["by_prompt"].update(
            {name: theirs(case, name, published.by_prompt) for name in names}
        )
        sides[f"few {index}"] = lambda names=names: [theirs(few, name, published.by_token) for name in names]
        sides[f"none {index}"] = lambda names=names: [theirs(none, name, published.by_token) for name in names]
    times = harness.in_turns(rounds, sides)
    apart = [
        ((weight - found["ours"][name]).norm() / found["ours"][name].norm()).item()
        for name, weight in found["by_prompt"].items()
    ]
    by_prompt, timed, fixed = (times_of_all(times, groups, side) for side in ("by_prompt", "few", "none"))
    as_often = sum(map(len, case.phrases)) / sum(map(len, few.phrases))
    by_token = {clock: fixed[clock] + as_often * (timed[clock] - fixed[clock]) for clock in fixed}
    return {"ours": times["ours"], "by_prompt": by_prompt, "by_token": by_token}, max(apart)


def ours(case: Case) -> dict[str, Tensor]:
    """Each concept's moments in float64, then the join."""
    moments = []
    for concept, phrase in enumerate(case.phrases):
        f, g = (words.flatten(0, 1).to(torch.float64) for words in case.pairs(concept))
        moments.append(ConceptMoments(f.mT @ f, g.mT @ f, second_moment([phrase]).matrix))
    return erase(case.weights, moments, case.loras, case.prior, SETTINGS)


def theirs(case: Case, name: str, add: published.Sum) -> Tensor:
    """One projection by Eq. 2 and Eq. 7."""
    weight, prior = case.weights[name], case.prior.float()
    pairs = (pair for concept in range(len(case.phrases)) for pair in zip(*case.pairs(concept), strict=True))
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
    return {f"{out}.{k}.{part}": out for out, n in layers.items() for k in range(n) for part in ("to_k", "to_v")}


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
