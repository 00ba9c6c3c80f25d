"""Progress bars in a log: a line now and then, in place of carriage returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

EVERY = 10.0  # seconds between two lines of a bar that goes on
BRIEF = 1.0  # a bar that took no longer says nothing


class BarsAsLines:
    """A text stream that writes a bar of tqdm, which draws over its line with carriage returns, as lines of their own.

    A bar is written every `every` seconds, and as it stands when it ends unless that was within `brief` seconds; any
    other text goes through as it is. `clock` counts seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        every: float = EVERY,
        brief: float = BRIEF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream, self.every, self.brief, self.clock = stream, every, brief, clock
        self.bar, self.shown, self.began, self.written = "", "", 0.0, clock()
        self.within = False  # a line of other text

    def write(self, text: str) -> int:
        """Write text, or keep it as how far a bar is."""
        if text.startswith("\r"):
            drawn = text.rpartition("\r")[2].rstrip()
            if drawn.partition(":")[0] != self.bar.partition(":")[0]:
                self.began = self.written = self.clock()
            self.bar = drawn
            if drawn and self.clock() - self.written >= self.every:
                self._write_bar()
        elif text == "\n" and self.bar and not self.within:
            if self.clock() - self.began > self.brief and _far(self.bar) != _far(self.shown):
                self._write_bar()
            self.bar = ""
        elif text:
            self.stream.write(text)
            self.within = not text.endswith("\n")
        return len(text)

    def _write_bar(self) -> None:
        self.stream.write(f"{self.bar}\n")
        self.shown, self.written = self.bar, self.clock()

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def _far(bar: str) -> str:
    """A bar without its times."""
    return bar.rpartition("[")[0]
