"""The judges of an attack, and what its probe works with, as a job's settings name them."""

from __future__ import annotations

from pathlib import Path

from lethe.attacks.judges import Judge, Target, by_classifier, by_clip
from lethe.attacks.workspace import Workspace
from lethe.inputs.suites import class_names
from lethe.measures import classifier, clip
from lethe.steps.job import Job


def judges_of(job: Job) -> tuple[Judge, Judge]:
    """The judge that chooses, and the one that reports."""
    settings = job.settings
    classes = class_names(job.read("classes"), settings.column)
    classes += [ghost for ghost in settings.ghosts if ghost not in classes]
    reporter = clip.load(settings.measures["clip"]["measure"] | settings.files["clip"], job.device)
    chooser = classifier.load(settings.measures["classifier"]["measure"] | settings.files["classifier"], job.device)
    return by_classifier(chooser), by_clip(reporter, classes, settings.class_prompt)


def workspace_of(
    job: Job, chooser: Judge, reporter: Judge, *, name: str = "", at: dict | None = None, folder: Path | None = None
) -> Workspace:
    """What a probe works with: towards the class `name`, from the thresholds `at` of each judge."""
    settings, limits = job.settings, at or {"chooser": {}, "reporter": {}}
    return Workspace(
        sampling=settings.sampling,
        prompt=settings.prompt,
        chooser=Target(chooser, name, limits["chooser"].get(name, 1.0)),
        reporter=Target(reporter, name, limits["reporter"].get(name, 1.0)),
        search=seeds(getattr(settings, "search", None)),
        report=seeds(getattr(settings, "report", None)),
        seed=settings.seed,
        folder=folder,
    )


def seeds(between: list[int] | None) -> list[int]:
    """Seeds from the first to the last; none where there are none."""
    return list(range(between[0], between[1] + 1)) if between else []
