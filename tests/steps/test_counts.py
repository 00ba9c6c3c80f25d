"""Lines by count from a table and its record."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lethe.steps import counts


def drawn(tmp_path: Path, **second: object) -> tuple[pd.DataFrame, Path]:
    """What is drawn of a table of people in which a second task's numbers are others, and the picture."""
    rows = {
        "one/mace": {"acc_e": 10.0, "acc_s": 90.0, "h_c": 90.0},
        "two/mace": {"acc_e": 20.0, "acc_s": 80.0} | second,
    }
    table = pd.DataFrame(rows).T.rename_axis("edit")
    table.to_csv(tmp_path / "t.csv")
    details = {
        name: {
            f"{column}_interval_95": None if np.isnan(value) else [value - 1, value + 1] for column, value in of.items()
        }
        for name, of in rows.items()
    }
    (tmp_path / "t.json").write_text(json.dumps({"details": details}))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        whole = counts.lines_by_count
        patch.setattr(
            counts, "lines_by_count", lambda path, frame, **more: (found.append(frame), whole(path, frame, **more))
        )
        reads = {"table": tmp_path / "t.csv", "record": tmp_path / "t.json"}
        settings = SimpleNamespace(name="t", erased=[("one", 1), ("two", 10)])
        out = {"figure": tmp_path / "t.png"}
        counts.run(SimpleNamespace(settings=settings, read=reads.__getitem__, out=out))
    return found[0], tmp_path / "t.png"


def test_numbers_are_drawn_with_their_interval(tmp_path: Path) -> None:
    frame, path = drawn(tmp_path, h_c=80.0)
    assert frame.to_dict("list") == {
        "method": ["mace"] * 6,
        "number": ["acc_e", "acc_s", "h_c"] * 2,
        "concepts": [1] * 3 + [10] * 3,
        "value": [10.0, 90.0, 90.0, 20.0, 80.0, 80.0],
        "low": [9.0, 89.0, 89.0, 19.0, 79.0, 79.0],
        "high": [11.0, 91.0, 91.0, 21.0, 81.0, 81.0],
    }
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_number_of_no_image_is_left_out_of_the_picture(tmp_path: Path) -> None:
    """People of whom no image shows a face: neither a value nor an interval, which is null in the record."""
    frame, path = drawn(tmp_path, acc_e=np.nan, h_c=np.nan)
    missing = frame[frame["value"].isna()]
    assert list(missing["number"]) == ["acc_e", "h_c"]
    assert missing[["low", "high"]].isna().all(axis=None)
    assert frame.drop(missing.index).notna().all(axis=None)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
