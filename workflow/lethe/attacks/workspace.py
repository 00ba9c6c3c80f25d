"""What a probe is given to work with: how to draw, whom to ask, which seeds to search and report with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from diffusers import DiffusionPipeline

from lethe.attacks.judges import Target
from lethe.attacks.meter import Meter
from lethe.attacks.trials import ATTACK, REPORT, SEARCH, Trials, Try
from lethe.bases.base import Base
from lethe.bases.pipeline import use_scheduler
from lethe.bases.sampling import sample_rows
from lethe.edits.edit import Edit
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill

Drawn = Callable[[DiffusionPipeline, Sequence[Try], Sequence[int]], Sequence[np.ndarray]]
"""Images of tries, each with the seed at its place."""

DrawnWords = tuple[Sequence[Try], Sequence[np.ndarray]]
"""Tries and the image, uint8 `[h, w, 3]`, of each."""


@dataclass(frozen=True)
class Drawing:
    """How images are drawn. sampling: scheduler, steps, guidance and batch.  meter: counts what that takes."""

    sampling: Mapping[str, Any]
    meter: Meter = field(default_factory=Meter, kw_only=True)

    @contextmanager
    def pipeline_of(self, base: Base, edit: Edit | None) -> Iterator[DiffusionPipeline]:
        """The base's pipeline with its edit, drawing as `sampling` says, and counted; afterwards it is as before."""
        pipeline, own = base.pipeline, base.pipeline.scheduler
        use_scheduler(pipeline, self.sampling["scheduler"])
        if edit is not None:
            edit.install(pipeline)
        try:
            with self.meter.watching(pipeline):
                yield pipeline
        finally:
            if edit is not None:
                edit.remove(pipeline)
            pipeline.scheduler = own

    def draw(self, pipeline: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """An image, uint8 `[h, w, 3]`, of each prompt with its seed."""
        rows = pd.DataFrame({"prompt": list(prompts), "evaluation_seed": list(seeds)})
        told = {key: self.sampling[key] for key in ("steps", "guidance", "batch")}
        return sample_rows(pipeline, rows, **told)


@dataclass(frozen=True)
class Workspace(Drawing):
    """How probes draw and whom they ask.

    prompt: how a concept is asked for, with `{}`.  chooser: the judge by whom an attack chooses.  reporter: the one
    whose word counts.  search, report: seeds of the one and the other, apart from each other.  seed: of all else that
    is drawn.  folder: for what a probe keeps to go on with after a stop, or None.  words: what `words` of the probe's
    module drew for all concepts of an edit together, or None, and then the probe draws it.
    """

    prompt: str
    chooser: Target
    reporter: Target
    search: Sequence[int]
    report: Sequence[int]
    seed: int
    folder: Path | None = None
    words: DrawnWords | None = None

    def trials(self, concept: Concept) -> Trials:
        """Trials to fill, in which what names the concept counts as naming it."""
        return Trials(self.chooser, self.reporter, self.meter, [concept.name, *concept.synonyms])

    def asked(self, phrase: str) -> str:
        """The prompt that asks for a phrase."""
        return fill(self.prompt, phrase)

    def draw_tries(self, pipeline: DiffusionPipeline, tries: Sequence[Try], seeds: Sequence[int]) -> list[np.ndarray]:
        """The same of tries that are no more than their prompts."""
        return self.draw(pipeline, [one.prompt for one in tries], seeds)

    def chosen(
        self,
        pipeline: DiffusionPipeline,
        trials: Trials,
        tries: Sequence[Try],
        *,
        arm: str = ATTACK,
        drawn: Drawn | None = None,
        seeds: Sequence[int] | None = None,
        every: bool = False,
    ) -> Try | None:
        """Draw tries with the seeds of the search, choose by the chooser's mean score, and report on fresh seeds.

        With `every`, all tries are reported, the chosen one marked as the best. Returns it; None where there is none.
        """
        drawn, seeds = drawn or self.draw_tries, self.search if seeds is None else seeds
        if not tries:
            return None
        repeated, with_seeds = _each(tries, seeds)
        images = drawn(pipeline, repeated, with_seeds)
        found = trials.add(arm, SEARCH, repeated, with_seeds, images).reshape(len(tries), len(seeds)).mean(axis=1)
        best = tries[int(found.argmax())]
        for one in tries if every else [best]:
            self.reported(pipeline, trials, one, arm=arm, drawn=drawn, best=one is best)
        return best

    def reported(
        self,
        pipeline: DiffusionPipeline,
        trials: Trials,
        one: Try,
        *,
        arm: str = ATTACK,
        drawn: Drawn | None = None,
        best: bool = True,
    ) -> None:
        """Draw a try with the seeds of the report."""
        repeated, seeds = _each([one], self.report)
        trials.add(arm, REPORT, repeated, seeds, (drawn or self.draw_tries)(pipeline, repeated, seeds), best=best)


def _each(tries: Sequence[Try], seeds: Sequence[int]) -> tuple[list[Try], list[int]]:
    """Every try with every seed."""
    return [one for one in tries for _ in seeds], [seed for _ in tries for seed in seeds]
