"""What the jobs behind a results folder cost, summed from its records."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lethe.records.records import read_records

_CONCEPT = re.compile(r"results/([^/]+)/(?:concepts|edits/[^/]+/loras)/([^/]+)/")


@dataclass
class Cost:
    """A sum over jobs: their number, seconds from start to end, CPU seconds, highest peak memory in MB, and the
    seconds of jobs that used a GPU, by its name."""

    jobs: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    peak_mb: int = 0
    gpu_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, run: dict) -> None:
        """Count a job, given the record of its run."""
        self.jobs += 1
        self.seconds += run["seconds"]
        self.cpu_seconds += run["cpu_seconds"]
        self.peak_mb = max(self.peak_mb, run["peak_mb"])
        if run["gpu"] is not None:
            self.gpu_seconds[run["gpu"]] += run["seconds"]


@dataclass
class Costs:
    """Costs by step and in all, and by step and concept (base and slug) where a job is about one concept."""

    steps: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    concepts: dict[str, dict[tuple[str, str], Cost]] = field(default_factory=lambda: defaultdict(dict))
    total: Cost = field(default_factory=Cost)


def costs(results: Path) -> Costs:
    """Sum the records of a results folder; a job with several outputs, each with a record, counts once.

    Raises ValueError when there are no records, or one cannot be read.
    """
    found = Costs()
    for record in each_once(record for _, record in read_records(results)):
        step, run = record["step"], record["run"]
        found.steps[step].add(run)
        found.total.add(run)
        if concept := _CONCEPT.match(min(record["outputs"])):
            found.concepts[step].setdefault(concept.groups(), Cost()).add(run)
    return found


def each_once(records: Iterable[dict]) -> Iterator[dict]:
    """Records with each job once: a job with several outputs has a record beside each of them."""
    seen = set()
    for record in records:
        run = record["run"]
        job = (run["host"], run["started"], *sorted(record["outputs"]))
        if job not in seen:
            seen.add(job)
            yield record


def lines(found: Costs) -> Iterator[str]:
    """Costs as text: a table by step, GPU-hours, means per concept."""
    yield f"{'step':16}{'jobs':>7}{'seconds':>12}{'CPU seconds':>13}{'peak MB':>9}  GPU-hours"
    for step, cost in [*sorted(found.steps.items()), ("total", found.total)]:
        gpus = ", ".join(f"{seconds / 3600:.2f} {name}" for name, seconds in sorted(cost.gpu_seconds.items()))
        yield f"{step:16}{cost.jobs:7}{cost.seconds:12.1f}{cost.cpu_seconds:13.1f}{cost.peak_mb:9}  {gpus or '-'}"
    if found.concepts:
        yield ""
        yield f"{'per concept':16}{'n':>7}{'seconds':>12}{'GPU seconds':>13}  (means)"
        sums = []
        for step, concepts in sorted(found.concepts.items()):
            n = len(concepts)
            means = [
                sum(cost.seconds for cost in concepts.values()) / n,
                sum(sum(cost.gpu_seconds.values()) for cost in concepts.values()) / n,
            ]
            sums.append(means)
            yield f"{step:16}{n:7}{means[0]:12.1f}{means[1]:13.1f}"
        yield f"{'together':23}{sum(m[0] for m in sums):12.1f}{sum(m[1] for m in sums):13.1f}"
