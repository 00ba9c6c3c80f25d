"""The negative prompt, the baseline of guidance: while the pipeline draws, guidance starts from the concepts' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.bases.base import Base
from lethe.edits.guidance import GuidanceEdit
from lethe.erasure.branches import guide_drawing, phrases_as_text, read_text
from lethe.inputs.concepts import Concept

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

KIND = "negative-prompt"


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> GuidanceEdit:
    """An edit with the concepts' names, or the manifest's setting `text`, as its negative prompt.

    Its settings are that prompt (`text`) and `phrases_cut`, how many of its phrases the window cuts; a warning says so
    too.
    """
    own = settings["text"]
    phrases = [concept.name for concept in concepts] if own is None else own.split(", ")
    text, cut = phrases_as_text(base.text.tokenizers, phrases, of=KIND)
    return GuidanceEdit(KIND, {"text": text, "phrases_cut": cut})


def guide(pipeline: DiffusionPipeline, settings: Mapping[str, Any]) -> Callable[[], None]:
    """Let a pipeline draw with a negative prompt N, e_N + s (e_c - e_N); returns what takes that back.

    N stands in for the negative prompt of any call, of whatever kind, so that no row gets around it. Raises ValueError
    for settings that no edit of this method has; a pipeline so guided raises it when it draws with a scale of guidance
    of 1 or less, where a negative prompt is not read.
    """
    return guide_drawing(pipeline, [read_text(pipeline, settings.get("text"), of=KIND), None], of=KIND)
