"""What tests of methods that train share: a training that is cut off, and whether the emoji model still draws ships."""

from __future__ import annotations

import pytest
from diffusers import DiffusionPipeline

import lethe
from lethe.erasure import training
from running import ROOT

WORLD = ROOT / "resources" / "emoji"


def cut_off(monkeypatch: pytest.MonkeyPatch, stopped_at: int) -> list[int]:
    """Keep checkpoints every two steps, and stop at one of them by KeyboardInterrupt; the list grows by each step."""
    monkeypatch.setattr(training.train, "__kwdefaults__", training.train.__kwdefaults__ | {"every": 2})
    backward, calls = training._Run.backward, []

    def cut(run: object, *args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) == stopped_at:
            raise KeyboardInterrupt
        backward(run, *args, **kwargs)

    monkeypatch.setattr(training._Run, "backward", cut)
    return calls


def ships(pipeline: DiffusionPipeline) -> int:
    """Which of four pictures of a ship the judge takes for one; `pipeline` is the emoji world's."""
    names = [line.split("\t")[0] for line in (WORLD / "objects.tsv").read_text().splitlines()[1:]]
    drawn = lethe.sample(pipeline, ["a photo of the ship"] * 4, scheduler="dpm-solver++", steps=12, guidance=4.0)
    return lethe.recognised(drawn, names, model=str(WORLD / "clip")).count("ship")
