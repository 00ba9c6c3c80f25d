"""Which samples a picture shows, of as many as there may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

COLUMNS = 20  # of images side by side: more take minutes to lay out, and no screen shows them


def shown_columns(erased: int, kept: int, *, most: int = COLUMNS) -> tuple[int, int]:
    """How many columns of what is erased and of what should stay fit beside each other; the latter get a third."""
    fitting = min(kept, max(most - erased, most // 3))
    return min(erased, most - fitting), fitting


def chosen_prompts(
    rows: pd.DataFrame, concepts: Sequence[str], *, kept: int, recognised: pd.Series | None = None
) -> list[tuple[str, str]]:
    """(role, prompt) of what a figure shows: each erased concept, one synonym each, then the first `kept` others.

    `rows` has columns role (erased, generality, kept), type, prompt, in suite order. Of more concepts than fit, by
    `shown_columns`, it shows those that are `recognised` most often (a share by name), the worst first, else the first.
    """
    erased = rows["type"].isin(concepts)
    parts = [
        rows[(rows["role"] == "erased") & erased].drop_duplicates("type"),
        rows[(rows["role"] == "generality") & erased].drop_duplicates("type"),
        rows[(rows["role"] == "kept") & ~erased].drop_duplicates("type").head(kept),
    ]
    gone, others = shown_columns(len(parts[0]) + len(parts[1]), len(parts[2]))
    if gone < len(parts[0]) + len(parts[1]):
        shares = parts[0]["type"].map({} if recognised is None else recognised).fillna(0.0).to_numpy(float)
        worst = parts[0]["type"].iloc[np.argsort(-shares, kind="stable")]
        order = {name: place for place, name in enumerate(worst.head(gone // (2 if len(parts[1]) else 1)))}
        for k in (0, 1):
            part = parts[k][parts[k]["type"].isin(order)]
            parts[k] = part.iloc[np.argsort(part["type"].map(order).to_numpy(int), kind="stable")]
    parts[2] = parts[2].head(others)
    return [(row.role, row.prompt) for part in parts for row in part.itertuples()]


def chosen_seeds(seeds: Sequence[int], first: int, last: int) -> list[int]:
    """At most `last` - `first` + 1 of a prompt's `seeds`: those from `first` to `last`, then its first others."""
    wanted = range(first, last + 1)
    there = [seed for seed in wanted if seed in seeds]
    return (there + [seed for seed in dict.fromkeys(seeds) if seed not in wanted])[: len(wanted)]
