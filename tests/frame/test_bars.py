"""Bars of progress in a log: lines now and then, other text as it is."""

from __future__ import annotations

import io
from pathlib import Path

from tqdm import tqdm

from lethe.frame.bars import BarsAsLines
from lethe.frame.status import last_words, progress


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_is_a_line_now_and_then_and_one_at_its_end() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = BarsAsLines(stream, every=10, brief=1, clock=clock)
    for k in tqdm(range(40), desc="sampling", file=lines, mininterval=0, maxinterval=0):
        clock.now += 1
        if k == 19:
            lines.write("12:00:00 WARNING dark\n")
    written = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert written.count("12:00:00 WARNING dark") == 1
    bars = [line for line in written if line.startswith("sampling: ")]
    assert [line.split("|")[2].split()[0] for line in bars] == ["10/40", "20/40", "30/40", "40/40"]
    assert len(written) == 5


def test_a_bar_that_is_over_at_once_says_nothing_and_text_in_parts_stays() -> None:
    stream = io.StringIO()
    lines = BarsAsLines(stream)
    for _ in tqdm(range(3), desc="Loading weights", file=lines):
        print("one", "two", file=lines)
    assert stream.getvalue() == "one two\n" * 3


def test_status_reads_the_last_line_of_a_bar(tmp_path: Path) -> None:
    clock = Clock()
    with (tmp_path / "job.log").open("w") as stream:
        lines = BarsAsLines(stream, every=2, clock=clock)
        for _ in tqdm(range(50), desc="LoRA of ship", file=lines, mininterval=0, maxinterval=0):
            clock.now += 1
            if clock.now == 130:
                break
    told = progress(tmp_path / "job.log")
    assert told.startswith("LoRA of ship ")
    assert "/50, " in told
    assert told.endswith(" left")
    assert progress(tmp_path / "job.log", since=1e12) is None  # written before the job began
    assert progress(tmp_path / "none.log") is None
    with (tmp_path / "job.log").open("a") as stream:
        stream.write("LoRA of ship: 100%|##########| 50/50 [01:40<00:00,  2.00s/it]\n")
    assert progress(tmp_path / "job.log") is None  # it is over
    with (tmp_path / "job.log").open("a") as stream:
        stream.write("12:00:00 ERROR lora: out of memory\n")
    assert last_words(tmp_path / "job.log") == "lora: out of memory"
