"""Relearning: how fast finetuning brings a concept back, on images of it and on images of other things.

The control is a word that means nothing yet, taught to the base as it is on the same images and judged by the same
class. What it has to draw is known to the base, so to teach it is easier than to teach something never seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lethe.attacks.denoising import images_of
from lethe.attacks.tokens import unused
from lethe.attacks.trials import ATTACK, CONCEPT_IMAGES, CONTROL, NEW_WORD, OTHER_IMAGES, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.denoising import conditions_of
from lethe.edits.edit import Edit
from lethe.erasure.noising import Pictures
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.inputs.concepts import Concept

IMAGES = 9_000_000  # seeds of the images to learn from begin here, apart from all others


@dataclass(frozen=True)
class Lesson:
    """What one finetuning learns from, and what is asked after so many steps of it."""

    part: str
    arm: str
    prompts: Sequence[str]
    images: Sequence[np.ndarray]
    asked: str


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Finetune on each sort of images, and ask after each count of steps; the U-Net is then as it was.

    `part` says which sort and how many steps. Where no edit is attacked, the control is run, too. An edit by guidance
    changes no weight: its U-Net is finetuned as the base's, and draws by its rule. Raises ValueError where the rate in
    the table would be of a count of steps that nothing asks after.
    """
    if settings["reported_at"] not in settings["steps"]:
        raise ValueError(f"relearning: reported_at is {settings['reported_at']}, which is none of steps; add it there")
    trials = workspace.trials(concept)
    lessons = list(lessons_of(base, concept, settings, workspace, control=edit is None))
    with workspace.pipeline_of(base, edit) as pipeline:
        for lesson in lessons:
            finetuned(base, pipeline, lesson, settings, workspace, trials)
    return trials


def lessons_of(
    base: Base, concept: Concept, settings: Mapping[str, Any], workspace: Workspace, *, control: bool
) -> Iterator[Lesson]:
    """Images of the concept under its name, images of other things, and as a control the first under a new word."""
    n, asked = settings["images"], workspace.asked(concept.name)
    images = images_of(base, concept.name, n, workspace, first_seed=IMAGES)
    yield Lesson(CONCEPT_IMAGES, ATTACK, [asked] * n, images, asked)
    others = [prompt for prompt in settings["benign_prompts"] if concept.name.lower() not in prompt.lower()]
    if settings["benign"] and others:
        prompts = [others[k % len(others)] for k in range(n)]
        with workspace.pipeline_of(base, None) as pipeline:
            drawn = workspace.draw(pipeline, prompts, range(IMAGES, IMAGES + n))
        yield Lesson(OTHER_IMAGES, ATTACK, prompts, drawn, asked)
    if control:
        new = workspace.asked(unused(base.text, [workspace.prompt])[1])
        yield Lesson(NEW_WORD, CONTROL, [new] * n, images, new)


def finetuned(
    base: Base,
    pipeline: DiffusionPipeline,
    lesson: Lesson,
    settings: Mapping[str, Any],
    workspace: Workspace,
    trials: Trials,
) -> None:
    """Train, and report after each count of steps."""
    points, done = sorted(set(settings["steps"])), set()
    pictures = Pictures.of(base, lesson.images, seed=workspace.seed)
    student = Student(pipeline.unet, [name for name, _ in pipeline.unet.named_parameters()])
    conditions = conditions_of(base.text, lesson.prompts, pictures.size)

    def ask(step: int) -> None:
        if step in points and step not in done:
            done.add(step)
            with instead(pipeline.unet, student.weights()):
                best = lesson.part == CONCEPT_IMAGES and step == settings["reported_at"]
                one = Try(f"{lesson.part}, {step} steps", lesson.asked)
                workspace.reported(pipeline, trials, one, arm=lesson.arm, best=best)

    steps = iter(range(points[-1] + 1))

    def loss_of_step(generator: torch.Generator) -> Tensor:
        ask(next(steps, 0))
        which, times = pictures.drawn(settings["batch"], generator)
        return pictures.losses(student, conditions.rows(which), which, times, generator).mean()

    if points[-1]:
        budget = Budget(points[-1], settings["learning_rate"], mend="lower learning_rate of the probe")
        name = f"relearning, {lesson.part}"
        train(student.values, loss_of_step, budget, seed=workspace.seed, dtype=base.dtype, name=name)
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
