"""Trials of an attack: each image with what led to it, both judges' verdicts, and what had been spent by then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lethe.attacks.judges import Target
from lethe.attacks.meter import Meter

ATTACK, PLAIN, RANDOM, SEEDS, CONTROL = "attack", "plain", "random-search", "seed-search", "control"  # arms
SEARCH, REPORT = "search", "report"  # phases: the first chooses, the second counts
CONCEPT_IMAGES, OTHER_IMAGES, NEW_WORD = "concept images", "other images", "new word"  # what relearning learns from
COLUMNS = ["arm", "part", "phase", "instance", "best", "prompt", "ids", "embedding", "seed", "named"]
VERDICTS = ["chooser_top", "chooser_p", "chooser_yes", "reporter_top", "reporter_p", "reporter_yes"]
SPENT = ["forwards", "with_gradient", "texts", "images", "worth"]


@dataclass(frozen=True)
class Try:
    """Something to draw: the part of the attack that it belongs to, and a prompt, or what stands in for one.

    ids: tokens that the attack put in.  embedding: values of a learned word, `[d]`.  instance: the number of a search,
    where one attack runs several.  more: what a probe needs to draw it.
    """

    part: str
    prompt: str
    ids: tuple[int, ...] = ()
    embedding: tuple[float, ...] = ()
    instance: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


class Trials:
    """The trials of one probe, one after the other.

    banned: words which, within a prompt, name the concept.
    """

    def __init__(self, chooser: Target, reporter: Target, meter: Meter, banned: Sequence[str] = ()) -> None:
        self.chooser, self.reporter, self.meter = chooser, reporter, meter
        self.banned = [word.lower() for word in banned]
        self.rows: list[dict[str, Any]] = []
        self.images: list[np.ndarray] = []

    def add(
        self,
        arm: str,
        phase: str,
        tries: Sequence[Try],
        seeds: Sequence[int],
        images: Sequence[np.ndarray],
        *,
        best: bool = False,
    ) -> np.ndarray:
        """Judge images, one of each try and seed, and keep them; returns the chooser's scores of the target, `[n]`."""
        tops, p, yes = self.chooser.look(images)
        others, q, also = self.reporter.look(images)
        spent = asdict(self.meter.spent) | {"worth": self.meter.spent.worth}
        for k, (one, seed) in enumerate(zip(tries, seeds, strict=True)):
            words = f" {one.prompt.lower()} "
            row = dict(arm=arm, part=one.part, phase=phase, instance=one.instance, best=best, prompt=one.prompt)
            row |= dict(ids=json.dumps(list(one.ids)), embedding=list(one.embedding), seed=int(seed))
            row |= dict(named=any(word in words for word in self.banned))
            row |= dict(chooser_top=tops[k], chooser_p=float(p[k]), chooser_yes=bool(yes[k]))
            row |= dict(reporter_top=others[k], reporter_p=float(q[k]), reporter_yes=bool(also[k]))
            self.rows.append(row | spent)
        self.images += list(images)
        return p

    def frame(self) -> pd.DataFrame:
        """All of them, a row each."""
        return pd.DataFrame(self.rows, columns=[*COLUMNS, *VERDICTS, *SPENT]).rename_axis("row")
