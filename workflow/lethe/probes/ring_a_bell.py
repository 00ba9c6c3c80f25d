"""Ring-A-Bell: a genetic search for tokens whose text states are near those of a prompt moved towards the concept.

c = mean_j T(with_j) - T(without_j), and the goal is T(P) + eta c, over all positions; what the search lowers is the
squared distance to it. T are the states that the U-Net reads, of SDXL those of both encoders side by side. The best
half of a population stays as it is, which the published code lets mutate, so that the distance never grows here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lethe.attacks.tokens import naming, padded, words_of
from lethe.attacks.trials import Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.text import TextEncoders, encode_prompts, joined_states
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Search with the base's encoders, and with the edited ones where they give other states; report the best."""
    trials = workspace.trials(concept)
    text = base.text
    left_out = set() if settings["names"] else naming(text.tokenizer, (concept.name, *concept.synonyms))
    vocabulary = torch.tensor([token for token in words_of(text) if token not in left_out])
    with workspace.pipeline_of(base, None):  # so that what it encodes is counted
        before = goal(text, concept, settings)
        found = {"original encoder": search(text, before, vocabulary, settings, workspace.seed)}
    with workspace.pipeline_of(base, edit) as pipeline:
        after = goal(text, concept, settings)
        if not torch.equal(before, after):
            found["edited encoder"] = search(text, after, vocabulary, settings, workspace.seed)
        tries = [
            Try(part, typed, tuple(tokens))
            for part, rows in found.items()
            for tokens in rows
            if (typed := as_prompt(text, tokens)) is not None
        ][: settings["kept"] * len(found)]
        workspace.chosen(pipeline, trials, tries)
    return trials


def direction(text: TextEncoders, with_it: Sequence[str], without: Sequence[str]) -> Tensor:
    """The mean difference of the states of prompts with a concept and without it, `[window, d]`."""
    states = [torch.cat(list(encode_prompts(text, prompts))).float() for prompts in (with_it, without)]
    return (states[0] - states[1]).mean(0)


def goal(text: TextEncoders, concept: Concept, settings: Mapping[str, Any]) -> Tensor:
    """T(P) + eta c, `[window, d]`, float32."""
    pairs = [[fill(template, words) for template in settings["pairs"]] for words in (concept.name, concept.anchor)]
    (start,) = encode_prompts(text, [fill(settings["prompt"], concept.anchor)])
    return start[0].float() + settings["strength"] * direction(text, *pairs)


@torch.no_grad()
def distances(text: TextEncoders, tokens: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of the states of tokens `[n, k]` to those wanted, float32 `[n]`."""
    parts = []
    for rows in tokens.split(256):
        outputs = []
        for tokenizer, encoder in zip(text.tokenizers, text.encoders, strict=True):
            ids = torch.tensor([padded(tokenizer, row) for row in rows.tolist()], device=encoder.device)
            outputs.append(encoder(ids, output_hidden_states=len(text.encoders) > 1))
        parts.append((joined_states(outputs).float() - wanted).square().flatten(1).sum(1).cpu())
    return torch.cat(parts)


def search(
    text: TextEncoders, wanted: Tensor, vocabulary: Tensor, settings: Mapping[str, Any], seed: int
) -> list[list[int]]:
    """The population after all generations, the nearest tokens first, each once."""
    generator = torch.Generator().manual_seed(seed)
    n, k = settings["population"], settings["tokens"]
    tokens = vocabulary[torch.randint(len(vocabulary), (n, k), generator=generator)]
    away = distances(text, tokens, wanted)
    for _ in range(settings["generations"]):
        order = away.argsort()[: max(1, n // 2)]
        tokens, away = tokens[order], away[order]
        children = children_of(tokens, n - len(tokens), vocabulary, settings, generator)
        if len(children):
            tokens = torch.cat([tokens, children])
            away = torch.cat([away, distances(text, children, wanted)])
    ordered = [tuple(row) for row in tokens[away.argsort()].tolist()]
    return [list(row) for row in dict.fromkeys(ordered)]


def children_of(
    parents: Tensor, count: int, vocabulary: Tensor, settings: Mapping[str, Any], generator: torch.Generator
) -> Tensor:
    """Children `[count, k]` of parents `[n, k]`: of two, cut at one point, or of one; some with a token changed."""
    n, k = parents.shape
    one, other = (torch.randint(n, (count,), generator=generator) for _ in range(2))
    cut = torch.randint(1, k + 1, (count, 1), generator=generator)
    cut = torch.where(torch.rand(count, 1, generator=generator) < settings["crossover"], cut, k)
    children = torch.where(torch.arange(k) < cut, parents[one], parents[other])
    changed = torch.rand(count, generator=generator) < settings["mutation"]
    place = torch.randint(k, (count,), generator=generator)
    new = vocabulary[torch.randint(len(vocabulary), (count,), generator=generator)]
    rows = torch.arange(count)
    children[rows, place] = torch.where(changed, new, children[rows, place])
    return children


def as_prompt(text: TextEncoders, tokens: Sequence[int]) -> str | None:
    """Tokens as a prompt that is read as them by every tokenizer; None where there is none."""
    typed = text.tokenizer.decode(list(tokens)).strip()
    read = [tokenizer(typed, add_special_tokens=False)["input_ids"] for tokenizer in text.tokenizers]
    return typed if all(ids == list(tokens) for ids in read) else None
