"""What the captions of the report say of a job's files: protocols and n, read from the files when it is written."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from lethe.files.shards import read_cells
from lethe.jobs import Job, Made


class About:
    """A text for the caption of a job's files, which is read only where it is asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __str__(self) -> str:
        return "\n\n".join(map(as_rst, about(self.job)))


def about(job: Job) -> list[str]:
    """Sentences on a job's files: protocol and n of the numbers behind them, or n of what a picture shows."""
    settings, found = job.told.settings, []
    if path := _numbers(job):
        found = protocols_in(path, settings.get("task"))
    if job.step.name in ("examples", "gallery"):
        edits = ", ".join(method for method, _ in settings["edits"])
        found = [f"Of {edits}, erasing {', '.join(settings['concepts'])}.", *found]
    if job.step.name == "examples":
        first, last = settings["seeds"]
        found.append(f"n = {last - first + 1} images of each prompt and edit.")
    if job.step.name == "costs":
        found = [f"n = {len(settings['edits'])} edits, each made once."]
    if job.step.name == "losses":
        found = [f"n = {len(settings['concepts'])} concepts: {', '.join(settings['concepts'])}."]
    if job.step.name == "mask_sheets":
        counts = {str(len(read_cells(Path(file.path), "row"))) for file in job.reads["masks"]}
        found = [f"By {', '.join(dict.fromkeys(settings['segmenters']))}; n = {_range(counts)} images on a sheet."]
    return found


def _numbers(job: Job) -> Path | None:
    """The list of numbers that a job makes, or that of the table which it reads."""
    made = (file.job for files in job.reads.values() for file in files if isinstance(file, Made))
    named = next((one.outputs["numbers"] for one in (job, *made) if "numbers" in one.outputs), None)
    return Path(named) if named and Path(named).is_file() else None


def protocols_in(path: Path, task: str | None = None) -> list[str]:
    """For each protocol in a list of numbers: which numbers are by it, of how many images."""
    of: dict[str, dict[str, set[str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if task in (None, line["task"]) and line["protocol"]:
                of.setdefault(line["protocol"], {}).setdefault(line["number"], set()).add(line["n"])
    return [
        f"{protocol}: {', '.join(f'{number} (n = {_range(counts)})' for number, counts in numbers.items())}"
        for protocol, numbers in of.items()
    ]


def _range(counts: set[str]) -> str:
    """The counts of several edits: one number, or the least and the most."""
    known = sorted(int(count) for count in counts if count)
    if not known:
        return "unknown"
    return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def as_rst(text: str) -> str:
    """A text on one line of reStructuredText in which nothing is anything but text."""
    return re.sub(r"([^\w\s]|_)", r"\\\1", " ".join(text.split()))
