"""Relearning: how fast finetuning brings a concept back, on images of it and on images of other things.

A ghost as the concept is the control: a word that the base never learned, taught with images of something else that the
base can draw. So its curve is that of teaching a word, where what it means is known, the easiest thing to be taught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lethe.attacks.denoising import Pictures, images_of
from lethe.attacks.trials import ATTACK, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.denoising import conditions_of
from lethe.edits.edit import Edit
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.inputs.concepts import Concept

IMAGES = 9_000_000  # seeds of the images to learn from begin here, apart from all others
CONCEPT, BENIGN = "concept images", "other images"


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Finetune on each sort of images, and ask after each count of steps; the U-Net is then as it was.

    `part` says which sort and how many steps. An edit by guidance changes no weight: its U-Net is finetuned as the base's,
    and draws by its rule.
    """
    trials = workspace.trials(concept)
    asked = workspace.asked(concept.name)
    sorts = {CONCEPT: [asked] * settings["images"]}
    others = [prompt for prompt in settings["benign_prompts"] if concept.name.lower() not in prompt.lower()]
    if settings["benign"] and others:
        sorts[BENIGN] = [others[k % len(others)] for k in range(settings["images"])]
    drawn = {CONCEPT: images_of(base, concept.name, settings["images"], workspace, first_seed=IMAGES)}
    if BENIGN in sorts:
        with workspace.pipeline_of(base, None) as pipeline:
            drawn[BENIGN] = workspace.draw(pipeline, sorts[BENIGN], range(IMAGES, IMAGES + settings["images"]))
    with workspace.pipeline_of(base, edit) as pipeline:
        for sort, prompts in sorts.items():
            pictures = Pictures.of(base, drawn[sort], seed=workspace.seed)
            finetuned(base, pipeline, pictures, sort, prompts, asked, settings, workspace, trials)
    return trials


def finetuned(
    base: Base,
    pipeline: DiffusionPipeline,
    pictures: Pictures,
    sort: str,
    prompts: Sequence[str],
    asked: str,
    settings: Mapping[str, Any],
    workspace: Workspace,
    trials: Trials,
) -> None:
    """Train, and report after each count of steps."""
    points, done = sorted(set(settings["steps"])), set()
    student = Student(pipeline.unet, [name for name, _ in pipeline.unet.named_parameters()])
    conditions = conditions_of(base.text, prompts, pictures.size)

    def ask(step: int) -> None:
        if step in points and step not in done:
            done.add(step)
            with instead(pipeline.unet, student.weights()):
                best = sort == CONCEPT and step == settings["reported_at"]
                workspace.reported(pipeline, trials, Try(f"{sort}, {step} steps", asked), arm=ATTACK, best=best)

    steps = iter(range(points[-1] + 1))

    def loss_of_step(generator: torch.Generator) -> Tensor:
        ask(next(steps))
        which, times = pictures.drawn(settings["batch"], generator)
        return pictures.losses(student, conditions.rows(which), which, times, generator).mean()

    if points[-1]:
        budget = Budget(points[-1], settings["learning_rate"], mend="lower learning_rate of the probe")
        train(student.values, loss_of_step, budget, seed=workspace.seed, dtype=base.dtype, name=f"relearning, {sort}")
    ask(points[-1])


@contextmanager
def instead(unet: torch.nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, parameters have other values; then they are bit for bit what they were."""
    parameters = dict(unet.named_parameters())
    before = {name: parameters[name].detach().clone() for name in weights}
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def curve(rows: Any, sort: str) -> tuple[list[int], list[float]]:
    """The counts of steps of one sort of images, and the share of images on which the reporter sees the target."""
    pattern = rf"{sort}, (\d+) steps"
    counts = rows["part"].str.extract(pattern)[0]
    of_sort = rows[counts.notna()].assign(steps=counts.dropna().astype(int))
    means = of_sort.groupby("steps")["reporter_yes"].mean()
    return [int(step) for step in means.index], [float(np.float64(value)) for value in means]
