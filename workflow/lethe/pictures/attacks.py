"""Pictures of attacks: what they brought back best, and how fast finetuning does."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lethe.attacks.trials import CONCEPT_IMAGES, NEW_WORD, OTHER_IMAGES
from lethe.pictures.figures import UNLIKE, plt, save_figure, save_panels
from lethe.tables.attacks import reported
from lethe.tables.protocols import interval


@dataclass(frozen=True)
class Pair:
    """An edit's image and the base's, uint8 `[h, w, 3]`, the latter if there is one, and what led to the former."""

    edited: np.ndarray
    original: np.ndarray | None
    caption: str


def strongest(trials: pd.DataFrame, edit: str, probe: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None] | None:
    """Of what a probe on an edit reported, the success that the reporter is surest of; None where there is none.

    Beside it the row of the base as it is, of the same concept and seed, of which a search found a prompt of its own.
    Equally sure ones go by concept and seed, so that the picture does not depend on the order of files.
    """
    mine = reported(trials[(trials["edit"] == edit) & (trials["probe"] == probe)])
    mine = mine[mine["reporter_yes"].astype(bool)]
    if not len(mine):
        return None
    best = mine.sort_values(["reporter_p", "concept", "seed"], ascending=[False, True, True]).iloc[0]
    bases = reported(trials[(trials["edit"] == "original") & (trials["probe"] == probe)])
    bases = bases[(bases["concept"] == best["concept"]) & (bases["seed"] == best["seed"])]
    return best, (bases.iloc[0] if len(bases) else None)


def pairs(
    path: Path, grid: Sequence[Sequence[Pair | None]], *, columns: Sequence[str], rows: Sequence[str], title: str
) -> None:
    """Write pairs of images (`grid[row][column]`), each with its caption below, as PNG; for None it says so."""
    size = (2.1 * len(columns) + 1.8, 1.45 * len(rows) + 0.7)
    shape = next((beside(pair).shape for line in grid for pair in line if pair is not None), (32, 66, 3))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
    for r, line in enumerate(grid):
        for c, pair in enumerate(line):
            axis = axes[r][c]
            axis.set_xticks([], [])
            axis.set_yticks([], [])
            axis.spines[:].set_visible(False)
            if pair is None:
                axis.imshow(np.full(shape, 255, np.uint8))  # as large as the others, so that titles stand in a line
                axis.text(
                    0.5, 0.5, "nothing", ha="center", va="center", fontsize=8, color="0.5", transform=axis.transAxes
                )
            else:
                axis.imshow(beside(pair), interpolation="nearest")
                axis.set_xlabel(_short(pair.caption), fontsize=6)
            if r == 0:
                axis.set_title(columns[c], fontsize=9)
            if c == 0:
                axis.set_ylabel(rows[r], fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle(textwrap.fill(title, int(11 * size[0])), fontsize=10)
    save_figure(figure, path)


def beside(pair: Pair) -> np.ndarray:
    """Both images with a white gap between them, `[h, w + gap + w, 3]`."""
    height, width = pair.edited.shape[:2]
    gap = np.full((height, max(1, width // 16), 3), 255, np.uint8)
    original = np.full_like(pair.edited, 255) if pair.original is None else pair.original
    return np.concatenate([pair.edited, gap, original], axis=1)


def relearned(trials: pd.DataFrame, edits: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Rates in percent after so many steps: line, sort, steps, value, n, low, high.

    line: a method, or that of a new word, taught to the base as it is.  sort: what was finetuned on.
    """
    steps = trials["part"].str.extract(r"^(?P<sort>.+), (?P<steps>\d+) steps$")
    told, lines = trials.assign(**steps).dropna(subset=["steps"]), []
    told = told.assign(steps=told["steps"].astype(int))
    for method, edit in edits:
        for (sort, count), group in told[told["edit"] == edit].groupby(["sort", "steps"], sort=False):
            hits, n = int(group["reporter_yes"].sum()), len(group)
            low, high = interval(hits, n)
            line = NEW_WORD if sort == NEW_WORD else method
            values = dict(value=100 * hits / n, n=n, low=100 * low, high=100 * high)
            lines.append(dict(line=line, sort=sort, steps=count) | values)
    return pd.DataFrame(lines, columns=["line", "sort", "steps", "value", "n", "low", "high"])


def curves(path: Path, found: pd.DataFrame, *, title: str) -> None:
    """Write the rates of `relearned` as PNG: a panel for images of the concept, one for others, with intervals."""
    sorts = [CONCEPT_IMAGES] + [OTHER_IMAGES] * bool((found["sort"] == OTHER_IMAGES).any())
    figure, axes = plt.subplots(
        1, len(sorts), figsize=(3.6 * len(sorts) + 1.4, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(found["line"]))
    styles = dict(zip(names, cycle(UNLIKE), strict=False)) | {
        NEW_WORD: dict(color="0.4", linestyle=(0, (1, 1)), marker="x")
    }
    for axis, sort in zip(axes[0], sorts, strict=True):
        shown = found[found["sort"].isin([sort, NEW_WORD] if sort == CONCEPT_IMAGES else [sort])]
        for name in dict.fromkeys(shown["line"]):
            line = shown[shown["line"] == name].sort_values("steps")
            (drawn,) = axis.plot(line["steps"], line["value"], markersize=4, label=name, **styles[name])
            band = dict(alpha=0.12, linewidth=0, color=drawn.get_color())
            axis.fill_between(line["steps"], line["low"], line["high"], **band)
        axis.set_title(f"finetuned on {sort}", fontsize=10)
        axis.set_xticks(sorted(shown["steps"].unique()))
    up, across = "percent with the concept", "steps of finetuning"
    save_panels(figure, axes[0], path, title=title, across=across, up=up)


def _short(caption: str, width: int = 36, lines: int = 2) -> str:
    """A caption on at most two lines."""
    return textwrap.fill(caption, width, max_lines=lines, placeholder="…")
