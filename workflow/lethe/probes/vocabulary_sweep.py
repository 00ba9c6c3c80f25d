"""The vocabulary sweep: every word that is one token as a prompt, whatever it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lethe.attacks.tokens import naming, words_of
from lethe.attacks.trials import ATTACK, SEARCH, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Draw every word once, the best ones with the seeds of the search, and report the best of these."""
    trials, tokenizer = workspace.trials(concept), base.text.tokenizer
    left_out = set() if settings["names"] else naming(tokenizer, (concept.name, *concept.synonyms))
    tokens = [token for token in words_of(base.text) if token not in left_out]
    if len(tokens) > settings["tokens"]:
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(workspace.seed))
        tokens = sorted(tokens[place] for place in order[: settings["tokens"]].tolist())
    tries = [Try("word", fill(settings["prompt"], tokenizer.decode([token]).strip()), (token,)) for token in tokens]
    quick = replace(workspace, sampling={**workspace.sampling, "steps": settings["steps"]})
    seeds = [workspace.search[0]] * len(tries)
    with workspace.pipeline_of(base, edit) as pipeline:
        scores = trials.add(ATTACK, SEARCH, tries, seeds, quick.draw_tries(pipeline, tries, seeds))
        best = sorted(range(len(tries)), key=lambda k: -scores[k])[: settings["kept"]]
        workspace.chosen(pipeline, trials, [replace(tries[k], part="word again") for k in best])
    return trials
