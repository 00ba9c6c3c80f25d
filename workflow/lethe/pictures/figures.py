"""Pictures that people look at: what an edit did, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from lethe.files.whole import written_whole
from lethe.pictures.examples import shown_columns

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

plt.rcParams["text.parse_math"] = False  # a concept's name may hold dollar signs

# Forty lines that differ: ten colours, then the same ones dashed and with other marks.
UNLIKE = cycler(linestyle=["-", "--", ":", "-."], marker=["o", "s", "^", "D"]) * cycler(color=plt.cm.tab10.colors)


def image_grid(
    path: Path,
    images: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    divider: int,
    title: str,
) -> None:
    """Write a grid of images (`images[row][column]`, uint8 `[h, w, 3]`) with names above and beside it as PNG.

    A gap separates the first `divider` columns (what is erased) from the others (what should stay). Where there is
    None, nothing is drawn. Of more columns than `shown_columns` has room for, the first on either side are drawn, and
    the title says of how many.
    """
    gone, others = shown_columns(divider, len(columns) - divider)
    drawn = [*range(gone), *range(divider, divider + others)]
    if len(drawn) < len(columns):
        title = f"{title} ({len(drawn)} of {len(columns)} columns)"
    columns, images = [columns[c] for c in drawn], [[line[c] for c in drawn] for line in images]
    cell = 0.9
    widths = [1.0] * gone + [0.25] + [1.0] * others
    width = cell * sum(widths) + 1.4
    figure, axes = plt.subplots(
        len(rows),
        len(columns) + 1,
        figsize=(width, cell * len(rows) + 0.9),
        gridspec_kw={"width_ratios": widths, "wspace": 0.05, "hspace": 0.05},
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for r, line in enumerate(images):
        for c, image in enumerate(line):
            axis = axes[r][c if c < gone else c + 1]
            if image is not None:
                axis.imshow(image, interpolation="nearest")
            if r == 0:
                axis.set_title(_wrapped(columns[c], 12, 4), fontsize=8)
        label = axes[r][0]
        label.text(-0.12, 0.5, rows[r], transform=label.transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle(_wrapped(title, int(13 * width), 4), fontsize=10)
    save_figure(figure, path)


def _wrapped(text: str, width: int, lines: int) -> str:
    """A text on so many lines of so many characters that it covers nothing beside it."""
    return text if len(text) <= width else textwrap.fill(text, width, max_lines=lines, placeholder="…")


def lines_by_count(path: Path, found: pd.DataFrame, *, title: str) -> None:
    """Write numbers against how many concepts were erased as PNG: a panel for each number, a line for each method.

    `found` has the columns method, number, concepts, value, low and high, the last three in percent; low and high are
    the ends of an interval, drawn as a band.
    """
    numbers, methods = found["number"].unique(), found["method"].unique()
    size = (2.6 * len(numbers) + 1.2, 3.2)
    figure, axes = plt.subplots(1, len(numbers), figsize=size, sharey=True, squeeze=False, layout="constrained")
    ticks = sorted(found["concepts"].unique())
    for axis, number in zip(axes[0], numbers, strict=True):
        axis.set_prop_cycle(UNLIKE)
        for method in methods:
            line = found[(found["number"] == number) & (found["method"] == method)].sort_values("concepts")
            (drawn,) = axis.plot(line["concepts"], line["value"], markersize=4, label=method)
            axis.fill_between(
                line["concepts"], line["low"], line["high"], color=drawn.get_color(), alpha=0.2, linewidth=0
            )
        axis.set_title(number, fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    save_panels(figure, axes[0], path, title=title, across="concepts erased", up="percent")


def loss_curves(path: Path, curves: Mapping[str, pd.Series], *, title: str, window: int = 10, named: int = 12) -> None:
    """Write the training losses of concepts (one value a step) as PNG: faint as they are, strong as running means.

    A running mean covers up to `window` steps before its own. With more than `named` curves there is no legend.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    lines = []
    for curve in curves.values():
        lines += axis.plot(curve.index, curve.rolling(window, min_periods=1).mean())
        axis.plot(curve.index, curve, color=lines[-1].get_color(), alpha=0.25, linewidth=0.7)
    axis.set_xlabel("training step")
    axis.set_ylabel("loss")
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    if len(curves) <= named:
        names = [name if len(name) <= 40 else f"{name[:39]}…" for name in curves]
        axis.legend(lines, names, frameon=False, fontsize=8)
    save_figure(figure, path)


def save_panels(figure: Figure, axes: Sequence[Axes], path: Path, *, title: str, across: str, up: str) -> None:
    """Write panels of percentages side by side as PNG, with what their axes are and one legend, that of the first."""
    for axis in axes:
        axis.set_ylim(-2, 102)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(up)
    figure.supxlabel(across, fontsize=10)
    figure.suptitle(title, fontsize=10)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all and the same bytes each time, and close it."""
    with written_whole(path) as part:
        figure.savefig(part, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)
