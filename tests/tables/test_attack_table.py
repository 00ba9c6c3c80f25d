"""The table of attacks, of trials that are written by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from lethe.tables.attacks import BY_CONCEPT, COLUMNS, by_concept, rows, savings

TOLD = {
    "base": "emoji",
    "concepts": ["ship"],
    "edits": [["original", "original"], ["mace", "objects/mace"]],
    "probes": [["uda", "unlearndiffatk"], ["again", "relearning"]],
    "clip": "clip",
    "ghosts": ["yeti"],
}


def trial(edit: str, yes: list[int], **more: object) -> pd.DataFrame:
    """Images of one part, each a success or none."""
    row = dict(base="emoji", edit=edit, probe="uda", concept="ship", arm="attack", part="p", phase="report", best=True)
    row |= dict(named=True, instance=0, prompt="x", worth=10, texts=5, reporter_p=0.5, reporter_top="cat")
    return pd.DataFrame([row | more | {"reporter_yes": bool(one)} for one in yes])


def test_rates_are_of_fresh_seeds_and_stand_beside_their_controls() -> None:
    trials = pd.concat(
        [
            trial("original", [1, 1, 1, 0]),
            trial("original", [0, 0], concept="yeti"),
            trial("random", [0, 0, 0]),
            trial("objects/mace", [0, 0], arm="plain", phase="search", part="plain prompt", instance=0),
            trial("objects/mace", [1], arm="plain", phase="search", part="plain prompt", instance=1),
            trial("objects/mace", [1, 0, 0], phase="search", instance=0),
            trial("objects/mace", [0], phase="search", instance=2),
            trial("objects/mace", [0], arm="plain", phase="search", instance=2),
            trial("objects/mace", [1, 0, 0, 0], worth=40, texts=8),
            trial("objects/mace", [1, 1], best=False),
            trial("objects/mace", [1, 0], named=False),
            trial("objects/mace", [0, 0], arm="random-search"),
            trial("objects/mace", [0, 1], arm="seed-search", phase="search"),
        ]
    )
    table = pd.DataFrame(rows(trials, TOLD)).set_index(["probe", "edit"])
    assert set(table.reset_index()) <= set(COLUMNS)
    mace, original = table.loc["uda", "mace"], table.loc["uda", "original"]
    assert (mace["rate"], mace["n"]) == (pytest.approx(33.33), 6)
    assert mace["low_95"] < mace["rate"] < mace["high_95"]
    assert mace["unnamed_rate"] == 50
    assert (mace["any_of_n"], mace["images"]) == (100, 4)
    assert (mace["asr"], mace["plain_asr"]) == (pytest.approx(66.67), pytest.approx(33.33))
    assert mace["base_rate"] == original["rate"] == 75
    assert (mace["random_search"], mace["seed_search_any"]) == (0, 100)
    assert (mace["ghost_rate"], mace["n_ghosts"], mace["random_unet_rate"], mace["n_random_unet"]) == (0, 2, 0, 3)
    assert (mace["worth"], mace["texts"]) == (40, 8)
    assert pd.isna(table.loc["again", "mace"]["rate"])


def test_relearning_is_told_as_savings_against_a_new_word() -> None:
    again = dict(probe="again")
    trials = pd.concat(
        [
            *(trial("original", [1, 1], part=f"concept images, {n} steps", **again) for n in (0, 10)),
            *(trial("original", [0, k], part=f"new word, {10 * k} steps", arm="control", **again) for k in (0, 1)),
            trial("objects/mace", [0, 0], part="concept images, 0 steps", **again),
            trial("objects/mace", [1, 1], part="concept images, 10 steps", **again),
        ]
    )
    table = pd.DataFrame(rows(trials, TOLD)).set_index(["probe", "edit"])
    assert table.loc["again", "mace"]["savings"] == pytest.approx(0.25)  # (1/2 - 1/4) / 1
    assert table.loc["again", "original"]["savings"] == pytest.approx(0.75)
    assert savings([0.2, 0.4], [0.2, 0.4], [0, 50], 0.9) == 0


def test_each_part_that_was_reported_has_a_row() -> None:
    parts = [trial("objects/mace", [1, 0]), trial("random", [0], part="q"), trial("objects/mace", [1], phase="search")]
    found = pd.DataFrame(by_concept(pd.concat(parts), TOLD))
    assert set(found) <= {*BY_CONCEPT}
    assert found[["edit", "part", "rate", "n"]].values.tolist() == [["mace", "p", 50, 2], ["random weights", "q", 0, 1]]
    assert found["taken_for"].tolist() == ["cat", "cat"]
