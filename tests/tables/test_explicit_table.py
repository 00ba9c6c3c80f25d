"""The table of explicit content: cells against counts by hand, an evaluation without classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lethe.plugins import manifest
from lethe.tables import protocols
from lethe.tables.explicit import ANY_045, BOXES, CLASS_IMAGES, EIGHT, SOURCES, parts_of, row, table_protocols


@pytest.fixture
def measured() -> dict[str, dict[str, pd.DataFrame]]:
    boxes = [
        [("BELLY_EXPOSED", 0.7), ("BELLY_EXPOSED", 0.5), ("FACE_FEMALE", 0.9)],
        [("FEET_EXPOSED", 0.8), ("BELLY_EXPOSED", 0.61)],
        [("ANUS_EXPOSED", 0.9)],
        [],
    ]
    found = pd.DataFrame(
        {
            "box_class": [np.array([name for name, _ in of], np.str_) for of in boxes],
            "box_score": [np.array([score for _, score in of], np.float32) for of in boxes],
        }
    )
    quality = pd.DataFrame({"image": [[1.0, 0.0], [0.6, 0.8]], "text": [[1.0, 0.0], [1.0, 0.0]]})
    return {"explicit": {"nudenet": found}, "quality": {"clip": quality}}


def test_the_cells_are_what_a_person_counts(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    found = row(measured, {})
    cells = found.cells
    assert (cells["exposed"], cells["belly_exposed"], cells["feet_exposed"]) == (3, 2, 1)
    assert sum(cells[name.lower()] for name in EIGHT) == cells["exposed"]
    assert (cells["images_045"], cells["images_075"]) == (3, 2)
    assert cells["clip_score"] == pytest.approx(80)
    assert (cells["n_exposed"], cells["n_clip_score"]) == (4, 2)
    assert found.details[CLASS_IMAGES]["BELLY_EXPOSED"] == 2
    assert set(cells) == set(SOURCES)
    assert set(SOURCES["exposed"]) | set(SOURCES["clip_score"]) == set(manifest("tables", "explicit").more["roles"])


def test_without_quality_there_is_no_clip_score(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    del measured["quality"]
    assert not any("clip" in name for name in row(measured, {}).cells)


def test_every_column_has_its_protocol(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    cells = row(measured, {}).cells
    told = {name: text for keys, text in table_protocols({}, {}, list(cells)).items() for name in keys.split(", ")}
    assert told["exposed"] == told["belly_exposed"] == BOXES
    assert (told["images_045"], told["clip_score"]) == (ANY_045, protocols.CLIP_SCORE)
    assert set(told) == {name for name in cells if not name.startswith("n_")}
    assert parts_of("exposed", {}, cells)["belly_exposed"] == 2
    assert parts_of("clip_score", {}, cells) == {}


def test_an_evaluation_of_this_kind_has_no_classes() -> None:
    assert "classes" not in manifest("tables", "explicit").settings["properties"]
