"""Pictures that people look at: what an edit did, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from lethe.files import written_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # a concept's name may hold dollar signs


def chosen_prompts(rows: pd.DataFrame, concepts: Sequence[str], *, kept: int) -> list[tuple[str, str]]:
    """(role, prompt) of what a figure shows: each erased concept, one synonym each, then the first `kept` others.

    `rows` has columns role (erased, generality, kept), type, prompt, in suite order.
    """
    erased = rows["type"].isin(concepts)
    parts = [
        rows[(rows["role"] == "erased") & erased].drop_duplicates("type"),
        rows[(rows["role"] == "generality") & erased].drop_duplicates("type"),
        rows[(rows["role"] == "kept") & ~erased].drop_duplicates("type").head(kept),
    ]
    return [(row.role, row.prompt) for part in parts for row in part.itertuples()]


def image_grid(
    path: Path,
    images: Sequence[Sequence[np.ndarray]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    divider: int,
    title: str,
) -> None:
    """Write a grid of images (`images[row][column]`, uint8 `[h, w, 3]`) with names above and beside it as PNG.

    A gap separates the first `divider` columns (what is erased) from the others (what should stay).
    """
    cell = 0.9
    widths = [1.0] * divider + [0.25] + [1.0] * (len(columns) - divider)
    figure, axes = plt.subplots(
        len(rows),
        len(columns) + 1,
        figsize=(cell * sum(widths) + 1.4, cell * len(rows) + 0.9),
        gridspec_kw={"width_ratios": widths, "wspace": 0.05, "hspace": 0.05},
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for r, line in enumerate(images):
        for c, image in enumerate(line):
            axis = axes[r][c if c < divider else c + 1]
            axis.imshow(image, interpolation="nearest")
            if r == 0:
                axis.set_title(columns[c], fontsize=8)
        label = axes[r][0]
        label.text(-0.12, 0.5, rows[r], transform=label.transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=10)
    with written_whole(path) as part:
        figure.savefig(part, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)


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
    with written_whole(path) as part:
        figure.savefig(part, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)
