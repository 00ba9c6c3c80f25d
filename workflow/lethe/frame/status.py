"""How far a run is: from Snakemake's log of it, the logs of its jobs, and the records of what they made."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lethe.frame.terminal import WARNING
from lethe.records.costs import each_once
from lethe.records.records import RESULTS, read_record, record_paths

RUNS, LOCKS = Path(".snakemake") / "log", Path(".snakemake") / "locks"
STAMP = re.compile(r"\s*\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]$")
STARTED = re.compile(r"\s*Job (\d+): (.+)$")
FINISHED = re.compile(r"\s*Finished jobid: (\d+)\b")
FAILED = re.compile(r"\s*Error in rule (\w+)")
FAILED_ID = re.compile(r"\s+jobid: (\d+)$")
TOTAL = re.compile(r"total +(\d+)$")
BAR = re.compile(r"(?:(.+?): )?\s*\d+%\|.*\| (\d+/\d+) \[(\S+?)<(\S+?), +(.+?)\]")
CLOCK = re.compile(r"\d\d:\d\d:\d\d (?:DEBUG|INFO|WARNING|ERROR) ")


@dataclass
class Run:
    """A run as Snakemake's log tells it.

    log: that log.  jobs: how many it has, 0 where the log does not say.  started: by the number of a job, what it does
    and its log, and when it started.  done, failed: numbers of jobs that ended.
    """

    log: Path
    jobs: int = 0
    started: dict[str, tuple[str, float]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def running(self) -> list[str]:
        """Numbers of jobs that started and have not ended."""
        return [job for job in self.started if job not in {*self.done, *self.failed}]


def status(folder: Path, *, now: float | None = None) -> Iterator[str]:
    """Lines on the newest run of a working directory: what is done, running with rate and time left, and failed.

    `now` is the time in seconds since 1970, by default the clock's. Raises ValueError where nothing ran.
    """
    now = time.time() if now is None else now
    recorded = _recorded(folder / RESULTS)
    logs = sorted((folder / RUNS).glob("*.snakemake.log"))
    if not logs and not recorded:
        raise ValueError(f"{folder.absolute()}: nothing ran here; name the folder in which snakemake runs")
    if recorded:
        steps = ", ".join(f"{step} {n}" for step, n in sorted(recorded.items()))
        yield f"made so far, by the records: {recorded.total()} jobs ({steps})"
    runs = (run for run in map(read_run, reversed(logs)) if run.started)  # a log without jobs is of a look at the plan
    if run := next(runs, None):
        yield from _told(folder, run, now)


def _recorded(results: Path) -> Counter:
    """Jobs with records, by step; records that cannot be read, as those of another version, count as none."""
    records = []
    for path in record_paths(results, missing_ok=True):
        try:
            records.append(read_record(path))
        except (OSError, ValueError):
            continue
    return Counter(record["step"] for record in each_once(records))


def read_run(log: Path) -> Run:
    """Read Snakemake's log of a run."""
    run, when, erring = Run(log), 0.0, False
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if stamp := STAMP.match(line):
            when = datetime.strptime(stamp[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif total := TOTAL.match(line):
            run.jobs = int(total[1])
        elif started := STARTED.match(line):
            run.started[started[1]] = started[2], when
            run.failed = [job for job in run.failed if job != started[1]]  # a second attempt
        elif finished := FINISHED.match(line):
            run.done.append(finished[1])
        elif FAILED.match(line):
            erring = True
        elif erring and (number := FAILED_ID.match(line)):
            run.failed.append(number[1])
            erring = False
    return run


def _told(folder: Path, run: Run, now: float) -> Iterator[str]:
    """A run in words."""
    began = min(when for _, when in run.started.values())
    alive = any((folder / LOCKS).glob("*"))
    of = f" of {run.jobs}" if run.jobs else ""
    state = "going on" if alive and run.running else "it was stopped" if run.running else "ended"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
    yield f"the last run, of {when}: {len(run.done)}{of} jobs done, {state}"
    for job in run.running if alive else ():
        doing, when = run.started[job]
        yield f"running for {span(now - when)}: {doing}"
        if how_far := progress(folder / log_of(doing), since=when):
            yield f"    {how_far}"
    for job in dict.fromkeys(run.failed):
        doing = run.started.get(job, ("", 0))[0]
        yield f"failed: {doing}"
        if said := last_words(folder / log_of(doing)):
            yield f"    {said}"
    if run.failed or (not alive and run.running):
        yield "run the same command again: what is done stays"


def log_of(doing: str) -> Path:
    """The log that the line of a job names at its end."""
    return Path(doing.rpartition(": ")[2])


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError:
        return []


def progress(log: Path, *, since: float = 0.0) -> str | None:
    """What the last bar in a log says: how far, how fast, how long still; None where none goes on since a time."""
    try:
        if log.stat().st_mtime < since:
            return None
    except OSError:
        return None
    bars = [bar for bar in map(BAR.match, _lines(log)) if bar]
    if not bars:
        return None
    name, far, _, left, rate = bars[-1].groups()
    return None if len({*far.split("/")}) == 1 else f"{name or 'so far'} {far}, {rate}, {left} left"


def last_words(log: Path) -> str | None:
    """The sentence with which a job that failed ended its log."""
    words = [line for line in _lines(log) if line.strip() and not BAR.match(line) and not WARNING.match(line)]
    return CLOCK.sub("", words[-1], count=1) if words else None


def span(seconds: float) -> str:
    """A time in words, such as 1 h 5 min."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
