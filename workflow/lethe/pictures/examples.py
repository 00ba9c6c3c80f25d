"""Which samples a picture shows, of as many as there may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

COLUMNS = 20  # of images side by side: more take minutes to lay out, and no screen shows them


def shown_columns(erased: int, kept: int, *, most: int = COLUMNS) -> tuple[int, int]:
    """How many columns of what is erased and of what should stay fit beside each other; the latter get a third."""
    fitting = min(kept, max(most - erased, most // 3))
    return min(erased, most - fitting), fitting


def chosen_prompts(
    rows: pd.DataFrame,
    concepts: Sequence[str],
    roles: Mapping[str, str],
    *,
    kept: int,
    recognised: pd.Series | None = None,
) -> list[tuple[str, str]]:
    """(role, prompt) of what a figure shows: each erased concept, other words for it, then the first `kept` others.

    `rows` has columns role, type, prompt, in suite order; `roles` says what of each role's rows counts: those of erased
    concepts, of what is kept, or all of them. Of more concepts than fit, by `shown_columns`, it shows those that are
    `recognised` most often (a share by name), the worst first, else the first.
    """
    erased = rows["type"].isin(concepts)
    gone = [rows[(rows["role"] == role) & erased].drop_duplicates("type") for role in _counting(roles, "erased")]
    stay = [rows[(rows["role"] == role) & ~erased].drop_duplicates("type") for role in _counting(roles, "kept")]
    others = pd.concat([rows.iloc[:0], *stay]).head(kept)
    columns, fitting = shown_columns(sum(map(len, gone)), len(others))
    if columns < sum(map(len, gone)):
        shares = gone[0]["type"].map({} if recognised is None else recognised).fillna(0.0).to_numpy(float)
        worst = gone[0]["type"].iloc[np.argsort(-shares, kind="stable")]
        order = {name: place for place, name in enumerate(worst.head(columns // sum(len(part) > 0 for part in gone)))}
        for k, part in enumerate(gone):
            shown = part[part["type"].isin(order)]
            gone[k] = shown.iloc[np.argsort(shown["type"].map(order).to_numpy(int), kind="stable")]
    every = [rows[rows["role"] == role].drop_duplicates("prompt") for role in _counting(roles, "all")]
    parts = [*gone, others.head(fitting), *(part.head(COLUMNS // len(every)) for part in every)]
    return [(row.role, row.prompt) for part in parts for row in part.itertuples()]


def _counting(roles: Mapping[str, str], what: str) -> list[str]:
    """The roles of whose rows `what` counts."""
    return [role for role, counts in roles.items() if counts == what]


def chosen_seeds(seeds: Sequence[int], first: int, last: int) -> list[int]:
    """At most `last` - `first` + 1 of a prompt's `seeds`: those from `first` to `last`, then its first others."""
    wanted = range(first, last + 1)
    there = [seed for seed in wanted if seed in seeds]
    return (there + [seed for seed in dict.fromkeys(seeds) if seed not in wanted])[: len(wanted)]
