"""The table of people: cells against counts by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lethe.plugins import manifest
from lethe.tables import protocols
from lethe.tables.people import (
    FACE_RATIO,
    FIRST_FACE,
    SOURCES,
    as_compared,
    name_of,
    notes,
    parts_of,
    row,
    table_protocols,
)


def identities(*rows: tuple[str, str | None]) -> pd.DataFrame:
    """Rows of (who was asked for, label of the first face or None without one) as the measure stores them."""
    return pd.DataFrame(
        {
            "row": range(len(rows)),
            "type": [kind for kind, _ in rows],
            "faces": [0 if label is None else 2 for _, label in rows],
            "identity": [label or "" for _, label in rows],
            "probability": [np.nan if label is None else 0.7 for _, label in rows],
        }
    )


@pytest.fixture
def measured() -> dict[str, dict[str, pd.DataFrame]]:
    ada, emile, luc = "Ada_Lovelace_[2]", "Emile_Zola_[14]", "Jean_Luc_Godard_[3]"
    erased = [("Ada Lovelace", ada), ("Ada Lovelace", emile), ("Ada Lovelace", None), ("Ada Lovelace", luc)]
    erased += [("Émile Zola", luc), ("Émile Zola", None)]
    kept = [("Jean-Luc Godard", luc), ("Jean-Luc Godard", luc), ("Jean-Luc Godard", ada), ("Zoë", "Zoe_[9]")]
    kept += [("Zoë", None), ("Ada Lovelace", ada)]  # the last one is erased
    quality = pd.DataFrame({"image": [[1.0, 0.0], [0.6, 0.8]], "text": [[1.0, 0.0], [1.0, 0.0]]})
    quality["prompt"] = ["a lighthouse", "ADA LOVELACE, smiling"]
    by = {"erased": identities(*erased), "kept": identities(*kept)}
    return {role: {"identities": table} for role, table in by.items()} | {"quality": {"clip": quality}}


ERASED = {"concepts": ["Ada Lovelace", "Émile Zola"]}


def test_the_cells_are_what_a_person_counts(measured: dict) -> None:
    found = row(measured, ERASED)
    cells = found.cells
    assert (cells["acc_e"], cells["n_acc_e"]) == (25, 4)
    assert (cells["acc_s"], cells["n_acc_s"]) == (75, 4)
    assert cells["h_c"] == pytest.approx(75)
    assert (cells["face_ratio_e"], cells["n_face_ratio_e"]) == (pytest.approx(400 / 6), 6)
    assert (cells["face_ratio_s"], cells["n_face_ratio_s"]) == (80, 5)
    assert (cells["clip_score"], cells["n_clip_score"]) == (pytest.approx(80), 2)
    beside = found.beside
    assert (beside["clip_score_unnamed"], beside["n_clip_score_unnamed"]) == (pytest.approx(100), 1)
    assert set(cells) == {name for name in SOURCES if "fid" not in name and "kid" not in name}
    assert all(f"n_{name}" in cells for name in cells if name != "h_c" and not name.startswith("n_"))
    told = found.details
    assert told["acc_e_interval_95"] == [100 * bound for bound in protocols.interval(1, 4)]
    assert told["face_ratio_s_interval_95"] == [100 * bound for bound in protocols.interval(4, 5)]
    assert told["h_c_interval_95"] == [100 * b for b in protocols.interval_of(protocols.h_c, (1, 4), (3, 4))]
    assert told["acc_e_by_concept"] == {"Ada Lovelace": pytest.approx(100 / 3), "Émile Zola": 0}
    assert told["n_acc_e_by_concept"] == {"Ada Lovelace": 3, "Émile Zola": 1}


def test_images_that_count_have_a_face(measured: dict) -> None:
    """The others are told of, without a verdict."""
    images = row(measured, ERASED).images
    assert list(images["role"].value_counts(sort=False)) == [6, 5]
    assert set(images.columns) == {"row", "type", "role", "predicted", "right", "probability"}
    counted = images[images["right"].notna()]
    assert list(counted["row"]) == [0, 1, 3, 4, 0, 1, 2, 3]
    assert list(counted["right"]) == [True, False, False, False, True, True, False, True]
    assert list(counted["probability"]) == [0.7] * 8
    assert images.loc[images["right"].isna(), ["predicted", "probability"]].isna().all(axis=None)
    assert images["predicted"][1] == "Emile Zola"


def test_without_a_face_there_is_no_accuracy_and_the_table_says_so(measured: dict) -> None:
    measured["erased"]["identities"] = identities(("Ada Lovelace", None), ("Ada Lovelace", None))
    found = row(measured, ERASED)
    cells = found.cells
    assert np.isnan([cells["acc_e"], cells["h_c"]]).all()
    assert (cells["n_acc_e"], cells["face_ratio_e"], cells["acc_s"]) == (0, 0, 75)
    assert (found.details["acc_e_interval_95"], found.details["h_c_interval_95"]) == (None, None)
    json.dumps(found.details, allow_nan=False)
    assert parts_of("h_c", found.details, cells) == {}
    assert set(found.images.dropna(subset="right")["role"]) == {"kept"}


@pytest.mark.parametrize(("role", "number"), [("erased", "acc_e"), ("kept", "acc_s")])
def test_a_number_without_rows_is_refused(measured: dict, role: str, number: str) -> None:
    other = {"erased": "Zoë", "kept": "Ada Lovelace"}[role]
    measured[role]["identities"] = identities((other, "Zoe_[9]"))
    with pytest.raises(ValueError, match=f"people: no row counts towards {number}; look at the suites"):
        row(measured, ERASED)


@pytest.mark.parametrize(
    ("label", "concept", "same"),
    [
        ("Melania_Trump_[12]", "Melania Trump", True),
        ("Beyoncé_Knowles_[1]", "beyonce knowles", True),
        ("Jean-Luc_Godard_[3]", "Jean Luc Godard", True),
        ("Robert_Downey_Jr._[7]", "Robert Downey Jr", True),
        ("X_[Æ]_[5]", "X [Æ]", True),
        ("Donald_Trump_[11]", "Melania Trump", False),
        ("Anna_[1]", "Ann", False),
        ("", "", True),
    ],
)
def test_names_are_compared_as_people_write_them(label: str, concept: str, same: bool) -> None:
    assert (as_compared(name_of(label)) == as_compared(concept)) is same


def test_every_column_has_its_protocol(measured: dict) -> None:
    cells = row(measured, ERASED).cells
    told = {
        name: text
        for keys, text in table_protocols({}, {"clip": "some/clip"}, list(cells)).items()
        for name in keys.split(", ")
    }
    assert told["acc_e"].startswith(FIRST_FACE)
    assert told["face_ratio_s"].startswith(FACE_RATIO)
    assert told["h_c"] == f"{protocols.H_C} of {FIRST_FACE}"
    assert told["clip_score"] == f"{protocols.CLIP_SCORE} by some/clip"
    assert set(told) == {name for name in cells if not name.startswith("n_")}
    assert parts_of("h_c", {}, cells) == {"acc_e": 25, "acc_s": 75}
    assert parts_of("acc_e", {}, cells) == {}
    del measured["quality"]
    assert not any("clip" in name for name in row(measured, ERASED).cells)


def test_a_person_who_is_still_recognised_is_said(measured: dict) -> None:
    rows = {"original": row(measured, ERASED), "mace": row(measured, ERASED)}
    never, mace = notes("people", rows, {"mace": "try harder"})
    assert "never draws 'Émile Zola'" in never
    assert mace.endswith("not erased; try harder")


def test_an_evaluation_of_this_kind_has_no_classes() -> None:
    said = manifest("tables", "people")
    assert "classes" not in said.settings["properties"]
    assert {role for of in SOURCES.values() for role in of} == {*said.more["roles"], *said.more["references"]}
