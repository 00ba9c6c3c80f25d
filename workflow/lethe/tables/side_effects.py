"""Side effects of edits as numbers, from what the probe `side-effects` drew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lethe.tables.protocols import counted

NEAR, FAR, REST, FLOOR, INSTEAD, NOTHING = "near", "far", "rest", "floor", "instead", "nothing"  # sorts of parts
SHARES = ["near_kept", "far_kept", "rest_kept", "concept_drawn", "other_drawn", "nothing_drawn"]
COLUMNS = ["task", "edit", "concepts"]
COLUMNS += [f"{share}{end}" for share in SHARES for end in ("", "_n", "_low_95", "_high_95")]
COLUMNS += ["drawn_instead", "drift", "floor", "ceiling", "relative_drift", "n_drift"]

Images = Callable[[pd.DataFrame], Sequence[np.ndarray]]
"""The images, uint8 `[h, w, 3]`, of rows of trials."""


def rows(trials: pd.DataFrame, told: Mapping[str, Any], images: Images) -> Iterator[dict[str, Any]]:
    """A row for each edit of a task, of the trials of its side effects; percent, with 95 % Wilson intervals.

    near_kept, far_kept: images of classes of the concept's kind, and of others, on which the reporter sees the class;
    classes that the task erases are left out.  rest_kept: images of the concept beside a far class, on which it sees
    the latter.  concept_drawn, other_drawn, nothing_drawn: of the concept's prompt, they add up to 100.
    drawn_instead: the class that stood there most often.  drift: by how much images of far classes differ from the
    base's of the same prompt and seed, root mean square of pixels in [0, 1]; floor: the same of the base in bfloat16;
    ceiling: of its images of one prompt and different seeds.  relative_drift: (drift - floor) / (ceiling - floor).
    """
    parts = trials["part"].str.split(": ", n=1, expand=True).reindex(columns=[0, 1])
    mine = trials.assign(sort=parts[0], asked=parts[1])
    gone = mine["sort"].isin([NEAR, FAR, REST, FLOOR]) & mine["asked"].isin(told["concepts"])
    mine = mine[(mine["base"] == told["base"]) & mine["concept"].isin(told["concepts"]) & ~gone]
    base = mine[mine["edit"] == "original"]
    for method, edit in told["edits"]:
        of = mine[mine["edit"] == edit]
        line: dict[str, Any] = {"edit": method, "concepts": of["concept"].nunique()}
        for sort in (NEAR, FAR, REST):
            line |= share(f"{sort}_kept", of[of["sort"] == sort]["reporter_yes"].astype(bool))
        line |= drawn(of[of["sort"].isin([INSTEAD, NOTHING])])
        yield line | drifted(of[of["sort"] == FAR], base, images)


def share(name: str, hits: pd.Series) -> dict[str, float | int | None]:
    """A share in percent, its n and interval."""
    found = counted(hits)
    return {name: found.pop("value")} | {f"{name}_{key}": number for key, number in found.items()}


def drawn(asked: pd.DataFrame) -> dict[str, Any]:
    """What stands on images of the concept's prompt: itself, another class, or nothing that a judge recognises.

    An image with the concept on top below its own threshold, which other images pass, is one of nothing.
    """
    yes = asked["reporter_yes"].astype(bool)
    other = ~yes & (asked["sort"] == INSTEAD) & (asked["reporter_top"] != asked["concept"])
    found = {"concept_drawn": yes, "other_drawn": other, "nothing_drawn": ~yes & ~other}
    tops = asked.loc[other, "reporter_top"].value_counts()
    most = min(tops[tops == tops.max()].index) if len(tops) else None
    return {key: value for name, hits in found.items() for key, value in share(name, hits).items()} | {
        "drawn_instead": most
    }


def drifted(far: pd.DataFrame, base: pd.DataFrame, images: Images) -> dict[str, float | int | None]:
    """How far images went from the base's, between floor and ceiling."""
    whole = base[base["sort"] == FAR]
    key = ["concept", "asked", "seed"]
    others = whole.assign(seed=whole.groupby(["concept", "asked"])["seed"].transform(lambda seeds: np.roll(seeds, 1)))
    compared = {"drift": far, "floor": base[base["sort"] == FLOOR], "ceiling": others}
    found: dict[str, float | int | None] = {"n_drift": 0}
    for name, one in compared.items():
        both = one.merge(whole, on=key, suffixes=("", "_base"))
        plain = both[[column for column in both if column.endswith("_base")]].rename(columns=lambda c: c[:-5])
        found[name] = round(float(np.mean(list(map(rms, images(both), images(plain))))), 5) if len(both) else None
        found["n_drift"] = len(both) if name == "drift" else found["n_drift"]
    low, high = found["floor"], found["ceiling"]
    if None not in (found["drift"], low, high) and high > low:
        found["relative_drift"] = round((found["drift"] - low) / (high - low), 4)
    return found


def rms(one: np.ndarray, other: np.ndarray) -> float:
    """The root mean square difference of two images, pixels in [0, 1]."""
    return float(np.sqrt(np.square((one.astype(float) - other.astype(float)) / 255).mean()))
