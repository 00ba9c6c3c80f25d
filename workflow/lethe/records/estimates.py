"""What the jobs of a plan would take, by a rate that somebody names or by the records of a run."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lethe.jobs import Job
from lethe.records.costs import Cost, each_once
from lethe.records.records import read_record, record_paths

SIDES = (512, 1024)  # of images of Stable Diffusion 1.x and XL
DRAWING = ("sample", "images")  # the steps whose outputs are archives of images


@dataclass
class Planned:
    """The jobs of a step, and the images that they draw."""

    jobs: int = 0
    images: int = 0


@dataclass
class Seen:
    """What records tell of the steps of a run: their cost; of steps that draw, how many images, and bytes in archives.

    Jobs whose archive is gone count towards neither.
    """

    steps: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    images: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes: int = 0

    def seconds(self, step: str, planned: Planned) -> tuple[float, float] | None:
        """Seconds of all planned jobs of a step, and those of them on a GPU; None where no job of it was seen.

        They go by image where the step draws, else by job.
        """
        cost = self.steps.get(step)
        if cost is None:
            return None
        share = planned.images / self.images[step] if step in DRAWING else planned.jobs / cost.jobs
        return cost.seconds * share, sum(cost.gpu_seconds.values()) * share


def planned_steps(jobs: Iterable[Job], images_of: Callable[[Job], int]) -> dict[str, Planned]:
    """Jobs and images of a plan by the step that runs them, as records name it."""
    found: dict[str, Planned] = defaultdict(Planned)
    for job in jobs:
        step = found[job.step.module.removeprefix("lethe.steps.")]
        step.jobs += 1
        step.images += images_of(job)
    return dict(sorted(found.items()))


def seen(results: Path) -> Seen:
    """What the records of a results folder tell; a folder without any tells nothing.

    Raises ValueError when a record cannot be read.
    """
    found = Seen()
    for record in each_once(map(read_record, record_paths(results, missing_ok=True))):
        step = record["step"]
        if step in DRAWING:
            archive = results / Path(min(record["outputs"])).relative_to("results")
            if not zipfile.is_zipfile(archive):
                continue
            with zipfile.ZipFile(archive) as opened:
                found.images[step] += sum(name.endswith(".png") for name in opened.namelist())
            found.bytes += archive.stat().st_size
        found.steps[step].add(record["run"])
    return found


def lines(
    planned: Mapping[str, Planned], found: Seen, results: Path, *, images_per_second: float | None = None
) -> Iterator[str]:
    """A table of steps with jobs, images and GPU-hours, then what these go by, the disk, and what nobody knows.

    `images_per_second` is what one GPU draws; it takes the place of what records tell of steps that draw.
    """
    total, known, unknown = 0.0, False, []
    yield f"{'step':18}{'jobs':>7}{'images':>9}{'hours':>9}{'GPU-hours':>11}"
    for step, what in planned.items():
        took = found.seconds(step, what)
        if images_per_second is not None and step in DRAWING:
            took = (what.images / images_per_second,) * 2
        hours = f"{'-':>9}{'-':>11}" if took is None else f"{took[0] / 3600:9.2f}{took[1] / 3600:11.2f}"
        yield f"{step:18}{what.jobs:7}{what.images or '-':>9}{hours}"
        if took is None:
            unknown.append(step)
        else:
            total, known = total + took[1], True
    images = sum(what.images for what in planned.values())
    gpu_hours = f"{total / 3600:11.2f}" if known else f"{'-':>11}"
    yield f"{'total':18}{sum(what.jobs for what in planned.values()):7}{images:9}{'':9}{gpu_hours}"
    yield ""
    if images_per_second is not None:
        yield f"Images by the rate that you named, {images_per_second:g} a second."
    if found.steps:
        yield f"Hours {'of other steps ' if images_per_second is not None else ''}by the records of {results}."
    if unknown:
        mend = f"the records of {results} have none" if found.steps else f"{results} has no records"
        yield f"Not known, as {mend}: what {', '.join(unknown)} would take."
    if set(unknown) & set(DRAWING):
        yield "Name --images-per-second, or the results folder of a run."
    drawn = sum(found.images.values())
    if drawn:
        each = found.bytes / drawn / 1e6
        yield f"Disk: {images * each / 1e3:.1f} GB of images, at {each:.3f} MB each, as in {results}."
    else:
        most = ", ".join(f"{images * 3 * side**2 / 1e9:.1f} GB at {side} x {side} pixels" for side in SIDES)
        yield f"Disk: images take at most 3 bytes a pixel, {most}."
