"""The table of what CLIP recognises: cells against counts by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from lethe.plugins import manifest
from lethe.tables import protocols
from lethe.tables.recognised import COUNTED, SOURCES, column_of, parts_of, recognised, row, sources_of, table_protocols

NAMES = ["bomb", "ice cream", "wine", "cat"]
SETTINGS = {"counted": ["bomb", "wine", "ice cream"], "threshold": 0.6}


def towards(**shares: float) -> list[float]:
    """An embedding whose softmax(100 cos) over the four classes, each along an axis of its own, has these shares."""
    logits = np.array([math.log(shares.get(name.split()[0], 1e-9)) / 100 for name in NAMES])
    logits -= logits.mean()
    return [*logits, math.sqrt(1 - (logits**2).sum())]  # of length 1, so that each cosine is its logit


@pytest.fixture
def measured() -> dict[str, dict[str, pd.DataFrame]]:
    images = [
        towards(bomb=0.9, cat=0.1),
        towards(bomb=0.61, wine=0.39),
        towards(bomb=0.59, wine=0.41),  # not sure enough
        towards(cat=0.95, bomb=0.05),  # sure, and not to be counted
        towards(ice=0.7, cat=0.3),
    ]
    rng = np.random.default_rng(2)
    images = [list(rng.uniform(0.5, 3) * np.array(image)) for image in images]  # whose lengths say nothing
    classes = pd.DataFrame({"class": NAMES, "text": list(np.eye(5)[:4] * 3)})
    quality = pd.DataFrame({"image": [[1.0, 0.0], [0.6, 0.8]], "text": [[1.0, 0.0], [1.0, 0.0]]})
    found = pd.DataFrame({"type": "x", "image": images})
    return {"explicit": {"clip": found}, "classes": {"clip": classes}, "quality": {"clip": quality}}


def spread(told: Mapping[str, str]) -> dict[str, str]:
    return {name: protocol for names, protocol in told.items() for name in names.split(", ")}


def test_the_cells_are_what_a_person_counts(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    found = row(measured, SETTINGS)
    cells = found.cells
    assert (cells["recognised"], cells["recognised_bomb"], cells["recognised_wine"]) == (3, 2, 0)
    assert cells[column_of("ice cream")] == cells["recognised_ice-cream"] == 1
    assert cells["clip_score"] == pytest.approx(80)
    assert (cells["n_recognised"], cells["n_clip_score"]) == (5, 2)
    assert parts_of("recognised", {}, cells) == {"recognised_bomb": 2, "recognised_wine": 0, "recognised_ice-cream": 1}
    assert parts_of("recognised_bomb", {}, cells) == {}
    for name in ("recognised", "recognised_bomb", "recognised_wine", "recognised_ice-cream"):
        bounds = [5 * bound for bound in protocols.interval(cells[name], 5)]  # Wilson's, of at most one an image
        assert found.details[f"{name}_interval_95"] == pytest.approx(bounds)
        assert found.numbers[f"n_{name}"] == 5


@pytest.mark.parametrize(("threshold", "bombs"), [(0.95, 0), (0.62, 1), (0.6, 2), (0.55, 3)])
def test_the_probability_of_the_most_similar_class_decides(
    measured: dict[str, dict[str, pd.DataFrame]], threshold: float, bombs: int
) -> None:
    assert row(measured, SETTINGS | {"threshold": threshold}).cells["recognised_bomb"] == bombs


def test_a_second_class_never_counts_however_low_the_threshold() -> None:
    images, texts = np.array([towards(bomb=0.5, wine=0.49)]), np.eye(5)[:4]
    assert recognised(images, texts, NAMES, ["wine", "bomb"], 0.01).tolist() == [[False, True]]


def test_every_column_has_its_protocol_and_its_sources(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    cells = row(measured, SETTINGS).cells
    told = spread(table_protocols(SETTINGS, {"clip": "some/clip", "classes": 4}, list(cells)))
    assert told["recognised"] == told["recognised_bomb"] == f"{COUNTED} of 4 classes by some/clip at 0.6"
    assert told["clip_score"] == f"{protocols.CLIP_SCORE} by some/clip"
    assert {name for name in cells if not name.startswith("n_")} <= set(told)
    assert all(sources_of(name) for name in cells)
    assert sources_of("recognised_bomb") == ("explicit", "classes")
    said = manifest("tables", "recognised").more
    assert {role for of in SOURCES.values() for role in of} == {*said["roles"], *said["texts"], *said["references"]}


def test_without_quality_there_is_no_number_of_it(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    del measured["quality"]
    assert not any("clip" in name for name in row(measured, SETTINGS).cells)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counted": ["bomb", "gun"]}, "'gun' is to be counted but not among the classes"),
        ({"counted": ["bomb", "bomb"]}, "a class is there twice"),
        ({"names": ["bomb", "bomb", "wine", "cat"]}, "a class is there twice"),
        ({"images": np.zeros((0, 5))}, "must hold at least one image"),
    ],
)
def test_what_cannot_be_counted_is_refused(changes: dict, words: str) -> None:
    given = {"images": np.ones((1, 5)), "texts": np.eye(5)[:4], "names": NAMES, "counted": ["bomb"], "threshold": 0.6}
    with pytest.raises(ValueError, match=words):
        recognised(**given | changes)
