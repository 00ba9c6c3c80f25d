"""The table of side effects, of trials that are written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lethe.tables.side_effects import COLUMNS, rows

TOLD = {"base": "emoji", "concepts": ["ship", "cat"], "edits": [["original", "original"], ["mace", "t/mace"]]}


def trial(edit: str, part: str, yes: list[int], **more: object) -> pd.DataFrame:
    row = dict(base="emoji", edit=edit, concept="ship", part=part, reporter_top="dog")
    return pd.DataFrame([row | {"seed": k, "reporter_yes": bool(one), "grey": 0} | more for k, one in enumerate(yes)])


def painted(rows: pd.DataFrame) -> list[np.ndarray]:
    return [np.full((2, 2, 3), grey, np.uint8) for grey in rows["grey"]]


def test_neighbours_rest_and_what_stands_instead_are_told_apart() -> None:
    trials = pd.concat(
        [
            trial("t/mace", "near: dog", [1, 1, 0, 0]),
            trial("t/mace", "near: cat", [0, 0]),  # which the task erases as well
            trial("t/mace", "far: tree", [1, 1]),
            trial("t/mace", "rest: tree", [0]),
            trial("t/mace", "instead: ship", [1, 0], reporter_top="ship"),  # one below the threshold
            trial("t/mace", "instead: ship", [0, 0, 0]),
            trial("t/mace", "nothing: ship", [0, 0, 0]),
        ],
        ignore_index=True,
    )
    original, mace = rows(trials, TOLD, painted)
    assert set(mace) | {"task"} <= set(COLUMNS)
    assert [mace[f"{sort}_kept"] for sort in ("near", "far", "rest")] == [50, 100, 0]
    assert [mace[f"{sort}_kept_n"] for sort in ("near", "far", "rest")] == [4, 2, 1]
    drawn = [mace[f"{what}_drawn"] for what in ("concept", "other", "nothing")]
    assert drawn == [12.5, 37.5, 50]
    assert mace["drawn_instead"] == "dog"
    assert mace["near_kept_low_95"] < 50 < mace["near_kept_high_95"]
    assert original["near_kept"] is None


def test_drift_stands_between_the_base_in_low_precision_and_other_seeds() -> None:
    trials = pd.concat(
        [
            trial("original", "far: tree", [1], grey=0),
            trial("original", "far: tree", [1], grey=102).assign(seed=1),
            trial("original", "floor: tree", [1, 1]).assign(grey=[5, 107]),
            trial("t/mace", "far: tree", [1, 1]).assign(grey=[51, 102]),
        ],
        ignore_index=True,
    )
    original, mace = rows(trials, TOLD, painted)
    assert (original["drift"], original["n_drift"]) == (0, 2)
    assert mace["drift"] == pytest.approx((51 / 255 + 0) / 2, abs=1e-5)
    assert mace["floor"] == pytest.approx(5 / 255, abs=1e-5)
    assert mace["ceiling"] == pytest.approx(102 / 255, abs=1e-5)
    wanted = (25.5 - 5) / (102 - 5)
    assert mace["relative_drift"] == pytest.approx(wanted, abs=1e-3)
