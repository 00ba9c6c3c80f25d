"""Caching the text to preserve: against the text encoder alone, and against sums for each projection, as published.

    python benchmarks/prior.py

A CLIPTextModel of Stable Diffusion 1.4's shape (12 layers of 768, random weights) reads distinct captions of 77 tokens.
Sides, in turns: `encoder`, its forward passes alone on batches of the same size; `ours`, captions to second moment as
the workflow's prior is made; `published`, the same forward passes and, for each projection and each caption, sums of
W p p^T and p p^T in float32 (one projection of each shape, counted as often as that shape occurs; --all-layers runs
them all).

The last line is a JSON object: `over_text_encoder` (ours / encoder), `ratio_published` (published / ours), `difference`
(largest relative difference of W P between the two), and the seconds of all three.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import harness
import published
from closed_form import groups_of, make_case, times_of_all
from lethe.bases.text import TextEncoders, encode_prompts
from lethe.erasure.moments import moment_in_parts

CAPTIONS, BATCH = 64, 16
TOKENIZER = harness.ROOT / "resources/emoji/pipeline/tokenizer"
WORDS = ["bird", "boat", "cat", "dog", "door", "field", "grass", "hill", "house", "lake", "man", "road", "sea", "sky"]


def main() -> None:
    """Measure."""
    made = harness.parser(__doc__)
    made.add_argument("--captions", type=int, default=CAPTIONS)
    made.add_argument("--all-layers", action="store_true", help="sum for every projection on the published side")
    args = harness.start(made)
    shape, captions = ("tiny", 8) if args.tiny else ("sd14", args.captions)
    text = text_model(tiny=args.tiny)
    (tokenizer,), (encoder,) = text.tokenizers, text.encoders
    case = make_case(shape, 1, prompts=1)
    texts = [f"{WORDS[k % 14]} and {WORDS[k // 14 % 14]} {k}" for k in range(captions)]
    found: dict[str, Tensor] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory() as parts:
            encode = partial(encode_prompts, text, batch=BATCH)
            found["moment"] = moment_in_parts(encode, texts, Path(parts), made_by={}).matrix

    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    states = torch.cat(list(encode_prompts(text, texts, batch=BATCH)))
    groups = groups_of(case, every=args.all_layers)
    sides = {"encoder": lambda: forward(encoder, ids), "ours": ours}
    for index, (names, _) in enumerate(groups):
        sides[f"published {index}"] = lambda names=names: found.update(
            {n: theirs(case.weights[n], states) for n in names}
        )
    times = harness.in_turns(args.rounds, sides)
    summed = times_of_all(times, groups, "published")
    seconds = {name: times[name] for name in ("encoder", "ours")}
    seconds["published"] = {clock: times["encoder"][clock] + summed[clock] for clock in summed}
    apart = []
    for name in (name for names, _ in groups for name in names):
        want = case.weights[name].double() @ found["moment"]
        apart.append(((found[name] - want).norm() / want.norm()).item())
    harness.finish(
        args,
        over_text_encoder=seconds["ours"]["cpu"] / seconds["encoder"]["cpu"],
        ratio_published=seconds["published"]["cpu"] / seconds["ours"]["cpu"],
        difference=max(apart),
        published_projections_measured=f"{sum(len(names) for names, _ in groups)} of {len(case.weights)}",
        seconds=seconds,
    )


@torch.no_grad()
def forward(encoder: CLIPTextModel, ids: Tensor) -> None:
    """The text encoder alone, batch by batch."""
    for batch in ids.split(BATCH):
        encoder(batch)


def theirs(weight: Tensor, states: Tensor) -> Tensor:
    """Sum of W p p^T for one projection, caption by caption; the sum of p p^T is made too, as each cache holds both."""
    left, right = torch.zeros_like(weight), torch.zeros(weight.shape[1], weight.shape[1])
    for p in states.split(1):
        left += published.by_prompt(p @ weight.mT, p)
        right += published.by_prompt(p, p)
    return left


def text_model(*, tiny: bool, layers: int = 12) -> TextEncoders:
    """A tokenizer with a window of 77, and a text encoder of `layers` layers (2 if tiny) with random weights."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    torch.manual_seed(0)
    size = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=12)
    if tiny:
        size = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id, **size)
    return TextEncoders((tokenizer,), (CLIPTextModel(config).eval(),))


if __name__ == "__main__":
    main()
