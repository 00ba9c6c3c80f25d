"""Protocols by their names: what each means, and the sentence where two would share a column.

The protocol of a number is a name, then what else the number depends on, as in `clip-top1@1 of 10 classes by MODEL`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[1] / "protocols.yaml"


@cache
def known() -> dict[str, dict[str, Any]]:
    """Every protocol by its name: what it means, its source, arguments or why nothing here computes it."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def arguments_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The arguments of the functions that compute protocols, by name. Raises ValueError for one that has none."""
    found = known() if names else {}
    if lacking := [name for name in names if "arguments" not in found.get(name, {})]:
        raise ValueError(f"{FILE.name}: there are no arguments of {lacking[0]!r}; add them")
    return {name: found[name]["arguments"] for name in names}


def name_of(protocol: str) -> str:
    """The name in a protocol."""
    return protocol.split(" ", 1)[0]


def apart(ours: str, theirs: str) -> str:
    """Why numbers by two protocols do not meet: a sentence without a full stop, empty where the protocols are one."""
    if ours == theirs:
        return ""
    why = [known().get(name_of(protocol), {}).get("elsewhere") for protocol in (ours, theirs)]
    told = "".join(f" ({name_of(p)}: {because})" for p, because in zip((ours, theirs), why, strict=True) if because)
    return f"{ours} and {theirs} are two protocols, which never share a column{told}"


def one_protocol(column: str, protocols: Mapping[str, str]) -> str:
    """The one protocol of a column, from that of each of its sources.

    Raises ValueError, naming the column and two of the sources, where they differ.
    """
    (first, one), *others = protocols.items()
    for other, protocol in others:
        if problem := apart(one, protocol):
            mend = "measure both alike, or give each a table of its own"
            raise ValueError(f"the column {column} of {first} and {other}: {problem}; {mend}")
    return one
