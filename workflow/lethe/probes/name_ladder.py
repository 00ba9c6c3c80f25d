"""The name ladder: the name, and rung by rung prompts that are further from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lethe.attacks.trials import Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.files.tables import as_read
from lethe.inputs.concepts import Concept
from lethe.inputs.suites import phrases
from lethe.inputs.templates import fill


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Ask on every rung; each is reported, and the best one by the search is marked."""
    trials = workspace.trials(concept)
    tries = [Try(part, prompt) for part, prompt in dict.fromkeys(rungs(concept, settings, workspace))]
    with workspace.pipeline_of(base, edit) as pipeline:
        workspace.chosen(pipeline, trials, tries, every=True)
    return trials


def rungs(concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Each rung and a prompt of it."""
    name = workspace.asked(concept.name)
    yield "name", name
    for word in concept.synonyms if settings["synonyms"] else ():
        yield "synonym", workspace.asked(word)
    for template in settings["paraphrases"]:
        yield "paraphrase", fill(template, concept.name)
    for template in settings["styles"]:
        yield "style", fill(template, name)
    for word in column_of(settings, concept, "hypernyms", "hyponym_column", "hypernym_column"):
        yield "hypernym", workspace.asked(word)
    for prompt in column_of(settings, concept, "prompts", "concept_column", "prompt_column"):
        yield "listed", prompt


def column_of(settings: Mapping[str, Any], concept: Concept, file: str, of: str, column: str) -> list[str]:
    """The phrases in a table's column in the rows that are of a concept."""
    if settings[file] is None:
        return []
    pairs = phrases(settings[file], settings[column], settings[of])
    return [phrase for thing, phrase in pairs if as_read(thing) == as_read(concept.name)]
