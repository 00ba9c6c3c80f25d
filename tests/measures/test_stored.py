"""Measures as tables: what was measured comes back beside its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from lethe.measures.stored import as_array, read_measures, write_measure


def embeddings(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_measures_come_back_one_below_the_other(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    before = some_rows.copy()
    images, texts = embeddings(4, 3), embeddings(4, 5, 1)
    for name, part in (("b", slice(0, 3)), ("a", slice(3, 4))):
        columns = {"image": images[part], "text": texts[part], "boxes": [[k] * k for k in range(len(images[part]))]}
        write_measure(tmp_path / "deep" / name, some_rows.iloc[part], columns, {"edit": "e", "shard": name})
    back = read_measures([tmp_path / "deep" / "b", tmp_path / "deep" / "a"])
    assert np.array_equal(as_array(back["image"]), images)
    assert np.array_equal(as_array(back["text"]), texts)
    assert as_array(back["image"]).dtype == np.float32
    assert [list(boxes) for boxes in back["boxes"]] == [[], [1], [2, 2], []]
    assert list(back["shard"]) == ["b", "b", "b", "a"]
    assert set(back["edit"]) == {"e"}
    pd.testing.assert_frame_equal(back.set_index("row")[some_rows.columns], some_rows)
    pd.testing.assert_frame_equal(some_rows, before)


def test_other_numbers_are_kept_as_float32(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    write_measure(tmp_path / "m", some_rows, {"image": embeddings(4, 3).astype(np.float64)}, {})
    assert as_array(read_measures([tmp_path / "m"])["image"]).dtype == np.float32


def test_a_list_of_values_stays_as_it_is(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    ragged = [np.array(values, np.int32) for values in ([3, 1, 2], [], [7], [-1, 1 << 30])]
    words = [np.array(values, np.str_) for values in (["a", "bb"], ["🦋"], [], [""])]
    columns = {"ragged": ragged, "words": words, "single": [0.1, 0.2, 0.3, 1e300]}
    write_measure(tmp_path / "m", some_rows, columns, {})
    back = read_measures([tmp_path / "m"])
    for stored, given in zip(back["ragged"], ragged, strict=True):
        assert stored.dtype == np.int32
        assert np.array_equal(stored, given)
    assert [list(values) for values in back["words"]] == [list(values) for values in words]
    assert list(back["single"]) == [0.1, 0.2, 0.3, 1e300]


def test_columns_without_a_value_have_the_types_of_others(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    for name, count in (("some", 2), ("none", 0)):
        columns = {kind: [np.ones(count).astype(kind)] * 4 for kind in ("str", "float32", "int32")}
        write_measure(tmp_path / name, some_rows, columns, {})
    some, none = (pyarrow.parquet.read_schema(tmp_path / name) for name in ("some", "none"))
    assert none.equals(some)
    assert [str(none.field(kind).type.value_type) for kind in ("str", "float32", "int32")] == [
        "string",
        "float",
        "int32",
    ]


def test_odd_texts_stay(tmp_path: Path) -> None:
    rows = pd.DataFrame({"type": ["NA", "", "🦋"], "prompt": ["a\r\nb", '"', "=1"], "evaluation_seed": [1, 2, 3]})
    write_measure(tmp_path / "m", rows.rename_axis("row"), {"image": embeddings(3, 2)}, {})
    pd.testing.assert_frame_equal(read_measures([tmp_path / "m"])[rows.columns], rows)


def test_equal_measures_have_equal_bytes(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    for name in "ab":
        write_measure(tmp_path / name, some_rows, {"image": embeddings(4, 3)}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_column_that_does_not_fit_its_rows_is_refused_and_leaves_nothing(
    tmp_path: Path, some_rows: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="a measure must have one value per row; got 3 of image for 4 rows"):
        write_measure(tmp_path / "m", some_rows, {"image": embeddings(3, 3)}, {})
    with pytest.raises(ValueError, match="one value per row; got 5 of scores for 4 rows"):
        write_measure(tmp_path / "m", some_rows, {"scores": [[0.5]] * 5}, {})
    assert list(tmp_path.iterdir()) == []


def test_as_array_of_nothing_is_empty() -> None:
    assert as_array(pd.Series([], dtype=object)).shape == (0, 0)
