"""Suites: which rows there are, what they say, and that shards hold each of them once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.files import COLUMNS
from lethe.suites import phrases, shard_count, shard_digests, shard_rows, suite_rows

TABLE = "concept\tanchor\tsynonyms\nship\tground\tvessel; boat;watercraft\nAC/DC\tart\t\nNA\tsky\tnull; {}\n"


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "concepts.tsv"
    path.write_text("\ufeff" + TABLE, encoding="utf-8")
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.csv"
    path.write_text('evaluation_seed,prompt,type,more\n5,NA,hate,x\n6,"a, b",harm,y\n7,"two\nlines",hate,z\n')
    return str(path)


# Words of a table


def test_words_times_seeds(table: str) -> None:
    rows = suite_rows({"table": table, "column": "concept", "prompt": "a photo of the {}", "seeds": [3, 5]})
    assert list(rows.columns) == COLUMNS
    assert rows.index.name == "row"
    expected = [(word, f"a photo of the {word}", seed) for word in ("ship", "AC/DC", "NA") for seed in (3, 4, 5)]
    assert list(rows.itertuples(name=None)) == [(k, *row) for k, row in enumerate(expected)]


def test_cells_are_split_and_typed_by_their_row(table: str) -> None:
    suite = {"table": table, "column": "synonyms", "type_column": "concept", "prompt": "{}!", "seeds": [1, 1]}
    assert list(suite_rows(suite).itertuples(index=False, name=None)) == [
        ("ship", "vessel!", 1),
        ("ship", "boat!", 1),
        ("ship", "watercraft!", 1),
        ("NA", "null!", 1),
        ("NA", "{}!", 1),
    ]
    del suite["type_column"]
    assert list(suite_rows(suite)["type"]) == ["vessel", "boat", "watercraft", "null", "{}"]


def test_one_seed_is_a_range_of_one(table: str) -> None:
    rows = suite_rows({"table": table, "column": "concept", "prompt": "{}", "seeds": [0, 0]})
    assert list(rows["evaluation_seed"]) == [0, 0, 0]


def test_space_around_words_types_and_column_names_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "loose.tsv"
    path.write_text("concept \t synonyms\n ship \t boat ;\tcar; \n".replace(";\tcar", "; car"))
    assert phrases(path, "synonyms", "concept") == [("ship", "boat"), ("ship", "car")]
    assert phrases(path, "concept") == [("ship", "ship")]


def test_a_row_whose_last_cells_an_editor_cut_has_no_words(tmp_path: Path) -> None:
    path = tmp_path / "short.tsv"
    path.write_text("concept\tanchor\tsynonyms\nship\tground\nbird\tsky\tfowl\n")
    assert phrases(path, "synonyms", "concept") == [("bird", "fowl")]


@pytest.mark.parametrize(("column", "type_column"), [("synonym", None), ("synonyms", "synonym")])
def test_a_missing_column_of_a_table_is_named(table: str, column: str, type_column: str | None) -> None:
    suite = {"table": table, "column": column, "type_column": type_column, "prompt": "{}", "seeds": [1, 2]}
    with pytest.raises(ValueError, match=r"concepts\.tsv: column synonym is missing; it has concept, anchor, synonyms"):
        suite_rows(suite)


# Rows of a file


def test_rows_of_a_file_are_taken_as_they_are(file: str) -> None:
    rows = suite_rows({"file": file})
    assert list(rows.columns) == COLUMNS
    expected = [(0, "hate", "NA", 5), (1, "harm", "a, b", 6), (2, "hate", "two\nlines", 7)]
    assert list(rows.itertuples(name=None)) == expected


@pytest.mark.parametrize(("limit", "n"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_first_rows_of_a_file(file: str, limit: int, n: int) -> None:
    pd.testing.assert_frame_equal(suite_rows({"file": file, "rows": limit}), suite_rows({"file": file}).head(n))


@pytest.mark.parametrize("missing", COLUMNS)
def test_a_missing_column_of_a_file_is_named(file: str, missing: str) -> None:
    pd.read_csv(file).drop(columns=missing).to_csv(file, index=False)
    text = rf"rows\.csv: the column {missing} is missing; rows need type, prompt, evaluation_seed"
    with pytest.raises(ValueError, match=text):
        suite_rows({"file": file})


def test_a_suite_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("type,prompt,evaluation_seed\n")
    (tmp_path / "b.tsv").write_text("concept\n")
    with pytest.raises(ValueError, match=r"the suite has no rows; look at .*a\.csv"):
        suite_rows({"file": str(tmp_path / "a.csv")})
    with pytest.raises(ValueError, match=r"the suite has no rows; look at .*b\.tsv"):
        suite_rows({"table": str(tmp_path / "b.tsv"), "column": "concept", "prompt": "{}", "seeds": [1, 9]})


# Shards


@settings(derandomize=True, max_examples=80, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 70))
def test_shards_hold_every_row_once_and_in_order(n: int, size: int) -> None:
    rows = pd.DataFrame({"prompt": [f"p{k}" for k in range(n)]}).rename_axis("row")
    shards = [shard_rows(rows, shard, size) for shard in range(shard_count(n, size))]
    assert all(1 <= len(shard) <= size for shard in shards)
    assert all(len(shard) == size for shard in shards[:-1])
    pd.testing.assert_frame_equal(pd.concat(shards), rows)
    assert shard_rows(rows, len(shards), size).empty


def test_a_shards_digest_follows_its_own_rows_and_their_numbers() -> None:
    rows = pd.DataFrame({"type": "cat", "prompt": ["a cat", "a cat", 'a "cat"\n'], "evaluation_seed": [1, 1, 3]})
    rows = rows.rename_axis("row")
    first, second, _ = shard_digests(rows, 1)
    assert first != second  # the same row under another number is another file in the shard
    assert shard_digests(shard_rows(rows, 1, 1), 1) == [second]
    longer = pd.concat([rows, rows]).reset_index(drop=True).rename_axis("row")
    assert shard_digests(longer, 1)[:3] == shard_digests(rows, 1)
    changed = shard_digests(rows.assign(evaluation_seed=[2, 1, 3]), 1)
    assert changed[0] != first
    assert changed[1] == second
    assert len(set(shard_digests(rows, 2) + shard_digests(rows, 3))) == 3


def test_comments_in_a_table_are_no_words(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("# words\nobject\tsynonyms\n# none\nship\t#1 boat; C#\n")
    assert phrases(table, "synonyms", "object") == [("ship", "#1 boat"), ("ship", "C#")]
