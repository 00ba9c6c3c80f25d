"""What a run shows in a terminal, record by record, as Snakemake's handler would print it."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter, LogEvent
from snakemake.settings.enums import Quietness

from lethe.frame.terminal import SHOWN, make_brief, warnings_in


@pytest.fixture
def printed() -> SimpleNamespace:
    """`printed.say(message, event, **more)` logs as Snakemake does; `printed.text()` is what stood in the terminal."""
    return terminal({Quietness.HOST, Quietness.REASON})


def terminal(quiet: set[Quietness], *, planned: bool = False) -> SimpleNamespace:
    logger, stream = logging.Logger("a run"), io.StringIO()
    handler = ColorizingTextHandler(stream=stream)
    handler.addFilter(DefaultFilter(quiet, False, False, planned, False))
    handler.setFormatter(DefaultFormatter(quiet, True))
    handler.name = "DefaultStreamHandler"
    logger.addHandler(handler)
    for _ in range(2):  # a second time changes nothing
        make_brief(logger, planned=planned)

    def say(message: str, event: LogEvent | None = None, level: int = logging.INFO, **more: object) -> None:
        logger.log(level, message, extra=dict(event=event, **more))

    return SimpleNamespace(say=say, text=lambda: stream.getvalue())


def job(said: SimpleNamespace, number: int, reason: str = "Missing output files: x") -> None:
    said.say("Select jobs to execute...")
    said.say("Execute 1 jobs...", LogEvent.JOB_STARTED, jobs=[number])
    told = dict(jobid=number, rule_msg=f"LoRA of {number}: logs/{number}.log", rule_name="lora", reason=reason)
    said.say("Rule: lora", LogEvent.JOB_INFO, **told)


def ended(said: SimpleNamespace, number: int, total: int) -> None:
    said.say(f"Finished jobid: {number}", LogEvent.JOB_FINISHED, job_id=number)
    said.say(f"{number} of {total} steps", LogEvent.PROGRESS, done=number, total=total)


def test_a_job_is_a_line(printed: SimpleNamespace) -> None:
    printed.say("Using shell: /usr/bin/bash")
    printed.say("Provided cores: 2", LogEvent.RESOURCES_INFO, cores=2)
    printed.say("Job stats: ...", LogEvent.RUN_INFO, stats={"lora": 2, "total": 2})
    for number in (1, 2):
        job(printed, number)
        ended(printed, number, 2)
    lines = [line[10:] if line[:1].isdigit() and ":" in line[:3] else line for line in printed.text().splitlines()]
    assert lines == [
        "2 jobs: lora 2",
        "",
        "LoRA of 1: logs/1.log",
        "1/2 done  LoRA of 2: logs/2.log",
        "all 2 jobs done",
    ]


def test_reasons_are_shown_to_whoever_asks() -> None:
    said = terminal({Quietness.HOST}, planned=True)
    job(said, 7)
    assert said.text().strip() == "LoRA of 7: logs/7.log\n    because: Missing output files: x"


def test_a_job_that_failed_says_why(printed: SimpleNamespace, tmp_path: Path) -> None:
    log, more = tmp_path / "job.log", tmp_path / "slurm.log"
    log.write_text("".join(f"line {k}\n" for k in range(50)) + "12:00:00 ERROR lora: out of memory\n")
    more.write_text("")
    job(printed, 1)
    told = dict(rule_msg=None, rule_name="lora", jobid=1, input=[], output=[], conda_env=None)
    printed.say("Error", LogEvent.JOB_ERROR, logging.ERROR, **told, log=[str(log)], aux={}, shellcmd="python " * 99)
    printed.say("Error", LogEvent.JOB_ERROR, logging.ERROR, **told, log=[str(more)], aux={"node": 7}, shellcmd="p")
    text = printed.text()
    assert "Error in rule lora: LoRA of 1: logs/1.log\n" in text
    assert "line 30\n" not in text
    assert text.count("line ") == 19
    assert "12:00:00 ERROR lora: out of memory\n" in text
    assert "python python" not in text
    assert "    node: 7\n" in text
    assert f"{more} is empty: the job was killed, or could not start" in text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Command 'set -e; python -m lethe\nmore' returned non-zero exit status 1.", ""),  # its log says it
        ("Command 'set -e; python' returned non-zero exit status 137.", "returned non-zero exit status 137"),
        ("Command 'set -e; python' died with <Signals.SIGKILL: 9>.", "A job's command died with <Signals.SIGKILL: 9>"),
        ("MissingOutputException in rule lora", "MissingOutputException in rule lora"),
    ],
)
def test_the_command_of_a_job_that_failed_is_left_out(printed: SimpleNamespace, said: str, shown: str) -> None:
    printed.say(said, LogEvent.ERROR, logging.ERROR, exception="CalledProcessError")
    assert shown in printed.text()
    assert "set -e" not in printed.text()
    assert bool(shown) == bool(printed.text())


def test_warnings_of_a_plugin_that_draws_itself_stay(printed: SimpleNamespace) -> None:
    logger = logging.Logger("another")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    make_brief(logger, planned=False)
    assert handler.formatter is None
    assert handler.filters == []


def test_warnings_are_repeated_once_each(tmp_path: Path) -> None:
    logs = [tmp_path / f"{k}.log" for k in range(3)]
    for k, log in enumerate(logs[:2]):
        log.write_text(f"12:00:0{k} INFO fine\n12:00:0{k} WARNING dark\x1b[1m image\n12:00:0{k} WARNING {k} WARNING\n")
    assert warnings_in(logs) == [
        f"dark\\x1b[1m image ({logs[0]} and 1 more)",
        f"0 WARNING ({logs[0]})",
        f"1 WARNING ({logs[1]})",
    ]
    logs[2].write_text("".join(f"12:00:00 WARNING number {k}\n" for k in range(SHOWN + 5)))
    told = warnings_in(logs[2:])
    assert len(told) == SHOWN + 1
    assert told[-1].startswith("5 more; ")
