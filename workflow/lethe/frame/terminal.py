"""A run in a terminal: a line for each job that starts, what failed jobs say, and the warnings of the others.

Snakemake's own log in `.snakemake/log` keeps all that it says.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lethe.messages import plain

STATED = re.compile(  # by Snakemake, of no use to somebody who runs this workflow
    r"Select jobs to execute|Execute \d+ jobs|Shutting down, this might|Using shell: |Conda environments: ignored|"
    r"Singularity containers: ignored|Group jobs: inactive"
)
DROPPED = {"job_started", "job_finished", "resources_info"}  # events that have a line of their own
EXIT = re.compile(r"Command '.*' (returned non-zero exit status \d+|died with .+?)\.?\s*$", re.DOTALL)
WARNING = re.compile(r"\d\d:\d\d:\d\d WARNING (.+)")
LAST = 20  # lines of the log of a job that failed
SHOWN = 10  # warnings


class Brief(logging.Formatter):
    """What Snakemake logs, each job on one line; both a formatter and a filter of its handler.

    `before` is the formatter that it takes the place of, which still words all that has no shorter form; `planned` says
    that this is but a look at the plan.
    """

    def __init__(self, before: logging.Formatter, *, planned: bool = False) -> None:
        super().__init__()
        self.before, self.planned = before, planned
        self.done = ""
        self.jobs: dict[int, str] = {}  # what they do, by their numbers

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be shown."""
        event = _event(record)
        if event == "progress":
            self.done = f"{record.done}/{record.total} done  "
            return record.done == record.total
        if event == "error" and (ended := EXIT.search(str(record.msg))):
            return ended[1] != "returned non-zero exit status 1"  # what the job said stands in its log
        return event not in DROPPED and not STATED.match(str(record.msg))

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        event = _event(record)
        if event == "job_info" and record.rule_msg:
            return self._job(record)
        if event == "job_error":
            return "\n".join(self._failed(record))
        if event == "run_info" and not self.planned:
            return _counted(record.stats)
        if event == "progress":
            return f"{_clock()}  all {record.total} jobs done"
        if event == "error" and (ended := EXIT.search(str(record.msg))):
            return f"A job's command {ended[1]}."
        return self.before.format(record)

    def _job(self, record: logging.LogRecord) -> str:
        self.jobs[record.jobid] = record.rule_msg
        line = record.rule_msg if self.planned else f"{_clock()}  {self.done}{record.rule_msg}"
        reasons = "REASON" not in {getattr(said, "name", said) for said in getattr(self.before, "quiet", ())}
        return f"{line}\n    because: {record.reason}" if reasons and record.reason else line

    def _failed(self, record: logging.LogRecord) -> Iterator[str]:
        doing = self.jobs.get(record.jobid, record.rule_msg)
        yield f"{_clock()}  Error in rule {record.rule_name}: {doing or f'job {record.jobid}'}"
        for name, told in record.aux.items():
            yield f"    {name}: {told}"
        for log in map(Path, record.log):
            if getattr(self.before, "show_failed_logs", True):
                yield from told_by(log)
            else:
                yield f"    see {log}"


def _event(record: logging.LogRecord) -> str:
    return str(getattr(record, "event", None) or "")


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _counted(stats: dict[str, int]) -> str:
    """How many jobs a run has, by rule."""
    jobs = {rule: n for rule, n in stats.items() if rule != "total"}
    return f"{sum(jobs.values())} jobs: {', '.join(f'{rule} {n}' for rule, n in jobs.items())}"


def told_by(log: Path) -> Iterator[str]:
    """The end of the log of a job that failed."""
    try:
        lines = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError as error:
        yield f"    {log}: {error.strerror}"
        return
    if not lines:
        yield f"    {log} is empty: the job was killed, or could not start"
        return
    yield f"    {log} {'ends with' if len(lines) > LAST else 'says'}:"
    yield from lines[-LAST:]


def warnings_in(logs: Iterable[Path]) -> list[str]:
    """What jobs warned of in their logs, each thing once, with the log, or the first one and how many more."""
    found: dict[str, list[Path]] = {}
    for log in logs:
        try:
            lines = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        except OSError:
            continue
        for sentence in dict.fromkeys(warning[1] for warning in map(WARNING.fullmatch, lines) if warning):
            found.setdefault(plain(sentence), []).append(log)
    told = [f"{sentence} ({in_[0]}{_more(in_)})" for sentence, in_ in found.items()]
    left = len(told) - SHOWN
    return told[:SHOWN] + ([f"{left} more; `grep -r WARNING logs` shows them"] if left > 0 else [])


def _more(logs: list[Path]) -> str:
    return f" and {len(logs) - 1} more" if len(logs) > 1 else ""


def make_brief(logger: logging.Logger, *, planned: bool) -> None:
    """Let the terminal handler of Snakemake be brief; a logger plugin that draws there itself, or `--quiet`, stays."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and not isinstance(handler.formatter, Brief):
            brief = Brief(handler.formatter, planned=planned)
            handler.setFormatter(brief)
            handler.addFilter(brief)
