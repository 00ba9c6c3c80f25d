"""Side effects of an edit: neighbours, the rest of a prompt, drift, and what is drawn instead of the concept.

Each part is `SORT: CLASS`, judged for the class that is asked for. Beside the concept the judge may not choose the
concept itself, as a good image of both is of either. Of the base as it is, far classes are drawn in bfloat16, too: by
how much images differ from that is the floor of drift, and by how much those of other seeds do, its ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lethe.attacks.judges import Judge, Target
from lethe.attacks.trials import ATTACK, REPORT, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.text import encode_prompts
from lethe.edits.edit import Edit
from lethe.files.tables import as_read
from lethe.inputs.concepts import Concept
from lethe.inputs.suites import phrases
from lethe.tables.side_effects import FAR, FLOOR, INSTEAD, NEAR, NOTHING, REST

RECOGNISED = 0.5  # the least probability from which a judge's word on a class counts


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Draw every sort with the edit. Nothing is searched for, and no row is marked as the best."""
    trials = workspace.trials(concept)
    seeds = list(workspace.report)[: settings["seeds"]]
    known = [name for name in workspace.reporter.judge.classes if workspace.chooser.judge.knows(name)]
    near, far = neighbours(base, concept, known, settings, workspace)

    def draw(pipeline: Any, sort: str, name: str, phrase: str, without: str | None = None) -> None:
        """Images of a phrase, judged as those of a class."""
        judges = (workspace.chooser.judge, workspace.reporter.judge)
        own = (Target(masked(judge, without), name, RECOGNISED) for judge in judges)
        part = Trials(*own, workspace.meter, trials.banned)
        tries = [Try(f"{sort}: {name}", workspace.asked(phrase))] * len(seeds)
        with torch.autocast(base.device.type, torch.bfloat16, enabled=sort == FLOOR):
            images = workspace.draw_tries(pipeline, tries, seeds)
        part.add(ATTACK, REPORT, tries, seeds, images)
        trials.rows += part.rows
        trials.images += part.images

    with workspace.pipeline_of(base, edit) as pipeline:
        instead(pipeline, concept, workspace, trials)
        for sort, names in ((NEAR, near), (FAR, far), (FLOOR, far if edit is None else [])):
            for name in names:
                draw(pipeline, sort, name, name)
        for name in far[: settings["rest"]]:
            phrase = settings["beside"].replace("{}", concept.name, 1).replace("{}", article(workspace, name), 1)
            draw(pipeline, REST, name, phrase, without=concept.name)
    return trials


def article(workspace: Workspace, name: str) -> str:
    """A class with the article that the prompt has before what it asks for, such as 'the'."""
    word = workspace.prompt.partition("{}")[0].split()[-1:]
    return f"{word[0]} {name}" if word in (["the"], ["a"], ["an"]) else name


def instead(pipeline: Any, concept: Concept, workspace: Workspace, trials: Trials) -> None:
    """The concept's own prompt; the part tells whether the reporter recognises anything at all."""
    prompt, seeds = workspace.asked(concept.name), list(workspace.report)
    images = workspace.draw(pipeline, [prompt] * len(seeds), seeds)
    sure = workspace.reporter.judge.tell(images).max(axis=1) >= RECOGNISED
    tries = [Try(f"{INSTEAD if one else NOTHING}: {concept.name}", prompt) for one in sure]
    trials.add(ATTACK, REPORT, tries, seeds, images)


def masked(judge: Judge, without: str | None) -> Judge:
    """A judge that cannot choose a class, whose probability goes to the others in their proportions."""
    if without is None or not judge.knows(without):
        return judge
    place, tell = judge.place(without), judge.tell

    def told(images: Sequence[np.ndarray]) -> np.ndarray:
        found = tell(images).copy()
        found[:, place] = 0
        return found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(float).tiny)

    return Judge(judge.classes, told)


def neighbours(
    base: Base, concept: Concept, known: Sequence[str], settings: Mapping[str, Any], workspace: Workspace
) -> tuple[list[str], list[str]]:
    """Near and far classes. Far ones are the same for all concepts of a kind, as far as they are far for each."""
    kinds = {as_read(name): kind for name, kind in pairs_of(settings)}
    names = [name for name in known if as_read(name) != as_read(concept.name)]
    if kinds:  # others, such as ghosts, which the base never learned, are none
        names = [name for name in names if as_read(name) in kinds]
    own = kinds.get(as_read(concept.name))
    away = distances(base, workspace.asked, concept.name, names)
    alike = {name: own is not None and kinds.get(as_read(name)) == own for name in names}
    near = sorted(names, key=lambda name: (not alike[name], away[name], name))[: settings["near"]]
    others = [name for name in names if name not in near and not alike[name]]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(workspace.seed)).tolist()
    return near, [others[place] for place in order[: settings["far"]]]


def pairs_of(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Classes and their kinds, as the table has them."""
    return list(phrases(settings["table"], settings["kind_column"], settings["column"])) if settings["table"] else []


def distances(base: Base, asked: Callable[[str], str], name: str, names: Sequence[str]) -> dict[str, float]:
    """One minus the cosine between the text states of a name's prompt and of each other's."""
    states = torch.cat(list(encode_prompts(base.text, [asked(name), *map(asked, names)]))).float().flatten(1)
    cosines: Tensor = torch.nn.functional.cosine_similarity(states[:1], states[1:])
    return dict(zip(names, (1 - cosines).tolist(), strict=True))
