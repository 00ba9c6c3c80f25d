"""The vocabulary sweep: every word that is one token as a prompt, whatever it means.

What a word draws depends on the edit alone, so it is drawn once for all concepts, and each looks for itself in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lethe.attacks.tokens import naming, words_of
from lethe.attacks.trials import ATTACK, SEARCH, Trials, Try
from lethe.attacks.workspace import Drawing, DrawnWords, Workspace
from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill


def words(
    base: Base, edit: Edit | None, settings: Mapping[str, Any], drawing: Drawing, *, seed: int, image_seed: int
) -> DrawnWords:
    """Draw every word once. `seed` decides which, where there are too many, and `image_seed` is that of all images."""
    tokenizer, tokens = base.text.tokenizer, words_of(base.text)
    if len(tokens) > settings["tokens"]:
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
        tokens = sorted(tokens[place] for place in order[: settings["tokens"]].tolist())
    tries = [Try("word", fill(settings["prompt"], tokenizer.decode([token]).strip()), (token,)) for token in tokens]
    quick = replace(drawing, sampling={**drawing.sampling, "steps": settings["steps"]})
    with quick.pipeline_of(base, edit) as pipeline:
        return tries, quick.draw(pipeline, [one.prompt for one in tries], [image_seed] * len(tries))


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Look at what every word drew, draw the best ones with the seeds of the search, and report the best of these."""
    trials, seed = workspace.trials(concept), workspace.search[0]
    found = workspace.words or words(base, edit, settings, workspace, seed=workspace.seed, image_seed=seed)
    named = set() if settings["names"] else naming(base.text.tokenizer, (concept.name, *concept.synonyms))
    kept = [(one, image) for one, image in zip(*found, strict=True) if named.isdisjoint(one.ids)]
    tries, images = [one for one, _ in kept], [image for _, image in kept]
    scores = trials.add(ATTACK, SEARCH, tries, [seed] * len(tries), images)
    best = sorted(range(len(tries)), key=lambda k: -scores[k])[: settings["kept"]]
    with workspace.pipeline_of(base, edit) as pipeline:
        workspace.chosen(pipeline, trials, [replace(tries[k], part="word again") for k in best])
    return trials
