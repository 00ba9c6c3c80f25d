"""Files that are loaded one at a time, as a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Loaded(Sequence[T]):
    """A sequence of what `load` makes of each path, read again at every access: only what is in use takes memory."""

    def __init__(self, load: Callable[[Path], T], paths: Sequence[Path]) -> None:
        self.load, self.paths = load, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> T:
        return self.load(self.paths[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.load, self.paths)
