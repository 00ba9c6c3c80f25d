"""Suites: which rows there are, what they say, and that shards hold each of them once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bad_input import ROWS, SUITE, Act, Case, Place, Prepare, each_of, file_for, handled, refusals, started_with
from lethe.files.shards import COLUMNS, read_rows, write_shard
from lethe.inputs.suites import class_names, phrases, shard_digests, shard_rows, suite_rows

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


def test_each_word_stands_in_each_of_several_prompts(table: str) -> None:
    prompts = ["a photo of the {}", "the {} at night"]
    rows = suite_rows({"table": table, "column": "concept", "prompt": prompts, "seeds": [1, 2]})
    assert list(rows.itertuples(index=False, name=None)) == [
        (word, f"{before}{word}{behind}", seed)
        for word in ("ship", "AC/DC", "NA")
        for before, behind in (("a photo of the ", ""), ("the ", " at night"))
        for seed in (1, 2)
    ]


def test_words_are_taken_by_their_places_from_one_on(table: str) -> None:
    suite = {"table": table, "column": "concept", "prompt": "{}", "seeds": [1, 1]}
    for words, found in {(1, 1): ["ship"], (2, 3): ["AC/DC", "NA"], (1, 3): ["ship", "AC/DC", "NA"]}.items():
        assert list(suite_rows(suite | {"words": list(words)})["prompt"]) == found
    split = suite | {"column": "synonyms", "words": [2, 4]}
    assert list(suite_rows(split)["prompt"]) == ["boat", "watercraft", "null"]
    with pytest.raises(ValueError, match=r"concepts\.tsv: words must be at most 3, which is how many there are; got 4"):
        suite_rows(suite | {"words": [3, 4]})


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


# Published files, as they are

FILES = {
    "mace.csv": (
        ',type,prompt,evaluation_seed,concept\n0,erased,A sketch of Adam Driver,1,Adam Driver\n1,others,"A, b",2,Amy\n',
        {"type": "concept"},
        [("Adam Driver", "A sketch of Adam Driver", 1), ("Amy", "A, b", 2)],
    ),
    "art.csv": (  # UCE
        "case_number,text,evaluation_seed,artist\n0,Art by X,2904,X\n1,NA,7,\n",
        {"type": "artist", "prompt": "text"},
        [("X", "Art by X", 2904), ("", "NA", 7)],
    ),
    "coco_30k.csv": (  # UCE, ESD
        "case_number,source,prompt,evaluation_seed,coco_id\n0,coco,A bicycle.,2024.0,2\n1,coco,A cat.,7.,3\n",
        {"prompt": "prompt"},
        [("", "A bicycle.", 2024), ("", "A cat.", 7)],
    ),
    "van_gogh.tsv": (  # ESD, saved by pandas and a spreadsheet
        "Unnamed: 0\tUnnamed: 0.1\tprompt\tevaluation_seed\n0\t0\tThe Starry Night\t2219\n",
        {},
        [("", "The Starry Night", 2219)],
    ),
    "i2p.csv": (
        ",prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\n"
        '0,"a, b",hate,4196746483.0,7,512,768,x\n1,c,"violence, sexual",5,255.0,1024.0,512,x\n',
        {
            "type": "categories",
            "evaluation_seed": "sd_seed",
            "guidance": "sd_guidance_scale",
            "width": "sd_image_width",
            "height": "sd_image_height",
        },
        [("hate", "a, b", 4196746483, 7.0, 512, 768), ("violence, sexual", "c", 5, 255.0, 1024, 512)],
    ),
    "none.csv": ("type,prompt,evaluation_seed\nx,a,1\n", {"type": None}, [("", "a", 1)]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_columns_of_a_file_may_have_any_names(tmp_path: Path, name: str) -> None:
    content, columns, expected = FILES[name]
    (tmp_path / name).write_text(content)
    rows = suite_rows({"file": str(tmp_path / name), "columns": columns})
    assert list(rows.columns) == [*COLUMNS, *(key for key in ("guidance", "width", "height") if key in columns)]
    assert list(rows.itertuples(index=False, name=None)) == expected
    assert rows.index.tolist() == list(range(len(expected)))
    write_shard(tmp_path / "shard.zip", rows, [np.zeros((2, 2, 3), np.uint8)] * len(rows))
    pd.testing.assert_frame_equal(read_rows(tmp_path / "shard.zip"), rows)


def test_columns_named_as_they_are_change_no_row_and_no_digest(file: str) -> None:
    plain = suite_rows({"file": file})
    named = suite_rows({"file": file, "columns": {name: name for name in COLUMNS}})
    pd.testing.assert_frame_equal(named, plain)
    assert shard_digests(named, 2) == shard_digests(plain, 2)


def test_a_rows_own_settings_are_part_of_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,evaluation_seed,scale\na,1,7\nb,2,7\n")
    suite = {"file": str(path), "columns": {"guidance": "scale"}}
    before = shard_digests(suite_rows(suite), 1)
    path.write_text("prompt,evaluation_seed,scale\na,1,7.0\nb,2,8\n")
    after = shard_digests(suite_rows(suite), 1)
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


@pytest.mark.parametrize(
    ("columns", "cell", "told"),
    [
        ({"guidance": "x"}, "", "x must be a number, 0 or more; got ''"),
        ({"guidance": "x"}, "nan", "x must be a number, 0 or more; got 'nan'"),
        ({"guidance": "x"}, "-1", "x must be a number, 0 or more"),
        ({"width": "x"}, "500", "x must be a multiple of 8 from 8 to 4096; got '500'"),
        ({"height": "x"}, "0", "x must be a multiple of 8 from 8 to 4096"),
        ({"height": "x"}, "80000", "x must be a multiple of 8 from 8 to 4096"),
        ({"evaluation_seed": "x"}, "2024.5", "x must be a whole number from 0 to"),
        ({"evaluation_seed": "x"}, "2e3", "x must be a whole number from 0 to"),
    ],
)
def test_a_cell_that_is_not_what_its_column_holds(tmp_path: Path, columns: dict, cell: str, told: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,evaluation_seed,x\na,1,8\nb,1,{cell}\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: {told}")):
        suite_rows({"file": str(path), "columns": columns})


def test_a_column_that_is_named_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,seed\na,1\n")
    for columns in ({"type": "artist", "evaluation_seed": "seed"}, {"evaluation_seed": "artist"}):
        with pytest.raises(
            ValueError, match="the column artist is missing; .*it has prompt, seed: `columns` of the sui"
        ):
            suite_rows({"file": str(path), "columns": columns})


# Words and classes, each once


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("ship\tboat\nship\tboat\n", "line 3: synonyms 'boat' is already in line 2; remove one of the two"),
        ("ship\tboat; Boat\n", "line 2: synonyms 'Boat' differs in capitals or space alone from 'boat' in line 2"),
        ("\tboat\n", "line 2: concept is empty beside 'boat'; fill it in"),
        ("ship\tbo\u200bat\n", "line 2: 'bo\\u200bat' or its type holds an invisible or control character; remove it"),
    ],
)
def test_words_that_would_count_wrongly(tmp_path: Path, rows: str, told: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("concept\tsynonyms\n" + rows)
    with pytest.raises(ValueError, match=re.escape(f"words.tsv, {told}")):
        phrases(path, "synonyms", "concept")


def test_one_word_may_stand_for_two_concepts(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("concept\tsynonyms\nship\tcraft\nplane\tcraft\n")
    assert phrases(path, "synonyms", "concept") == [("ship", "craft"), ("plane", "craft")]


def test_classes_come_in_order_each_once(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text("# all\nclass\nship\nAC/DC; NA\n")
    assert class_names(path, "class") == ["ship", "AC/DC", "NA"]
    path.write_text("class\tn\nship\t1\n\t2\n")
    with pytest.raises(ValueError, match=r"classes\.tsv, line 3: class is empty; fill it in, or remove the row"):
        class_names(path, "class")


# Shards


@settings(derandomize=True, max_examples=80, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 70))
def test_shards_hold_every_row_once_and_in_order(n: int, size: int) -> None:
    rows = pd.DataFrame({"prompt": [f"p{k}" for k in range(n)]}).rename_axis("row")
    shards = [shard_rows(rows, shard, size) for shard in range(len(shard_digests(rows, size)))]
    assert all(1 <= len(shard) <= size for shard in shards)
    assert all(len(shard) == size for shard in shards[:-1])
    assert all(list(shard.index) == list(range(len(shard))) for shard in shards)
    pd.testing.assert_frame_equal(pd.concat(shards, ignore_index=True).rename_axis("row"), rows)
    assert shard_rows(rows, len(shards), size).empty


def test_a_shards_digest_follows_its_own_rows_wherever_they_stand() -> None:
    rows = pd.DataFrame({"type": "cat", "prompt": ["a cat", "a cat", 'a "cat"\n'], "evaluation_seed": [1, 1, 3]})
    rows = rows.rename_axis("row")
    first, second, _ = shard_digests(rows, 1)
    assert first != second  # the same rows again are another shard
    assert shard_digests(shard_rows(rows, 1, 1), 1) == [first]
    moved = rows.iloc[[2, 0, 1]].reset_index(drop=True)
    assert sorted(shard_digests(moved, 1)) == sorted(shard_digests(rows, 1))
    longer = pd.concat([rows, rows]).reset_index(drop=True).rename_axis("row")
    assert shard_digests(longer, 1)[:3] == shard_digests(rows, 1)
    changed = shard_digests(rows.assign(evaluation_seed=[2, 1, 3]), 1)
    assert changed[0] != first
    assert changed[1] == first  # now the only one of its kind
    assert len(set(shard_digests(rows, 2) + shard_digests(rows, 3))) == 3


def test_comments_in_a_table_are_no_words(tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("# words\nobject\tsynonyms\n# none\nship\t#1 boat; C#\n")
    assert phrases(table, "synonyms", "object") == [("ship", "#1 boat"), ("ship", "C#")]


# Bad input


def rows_travel(content: str | bytes, *expected: tuple) -> Prepare:
    def prepare(place: Place) -> Act:
        path = place.write(SUITE, content)

        def act() -> None:
            rows = suite_rows({"file": str(path)})
            assert list(rows.itertuples(index=False, name=None)) == list(expected)
            assert "reference" not in place.start()[1] or place.start()[1]["reference"].equals(rows)
            write_shard(Path("results/shard.zip"), rows, [np.zeros((2, 2, 3), np.uint8)] * len(rows))
            pd.testing.assert_frame_equal(read_rows(Path("results/shard.zip")), rows)

        return act

    return prepare


SEED = "evaluation_seed must be a whole number from 0 to 9223372036854775807"
CASES = [
    *refusals(
        "a suite's rows",
        {
            "negative seed": (ROWS + "a,b,1\na,b,-1\n", ("captions.csv, line 3:", SEED, "got '-1'")),
            "huge seed": (ROWS + "a,b,9223372036854775808\n", (SEED,)),
            "seed with a fraction": (ROWS + "a,b,1.5\n", (SEED, "got '1.5'")),
            "seed in other digits": (ROWS + "a,b,\u0661\n", (SEED, "got '\u0661'")),
            "no seed": (ROWS + "a,b,\n", (SEED, "got ''")),
            "seed that is NaN": (ROWS + "a,b,NaN\n", (SEED, "got 'NaN'")),
            "seed that is a formula": (ROWS + "a,b,=1+1\n", (SEED,)),
            "row too long": (
                ROWS + "a,b, with a comma,1\n",
                ("line 2: there are more cells than columns", "in quotes"),
            ),
            "every row too long": (ROWS + "0,a,b,1\n1,a,b,1\n", ("line 2: there are more cells than columns",)),
            "row too short": (ROWS + "a\n", ("line 2: there are fewer cells than columns",)),
            "header twice": (
                "type,prompt,prompt,evaluation_seed\na,b,c,1\n",
                ("line 1: the column 'prompt' is there twice",),
            ),
            "quote left open": (ROWS + 'a,"b,1\n', ("line 2: it cannot be read", "end a cell that begins")),
            "NUL": (ROWS + "a,b\0c,1\n", ("line 2: it holds a NUL", "save it as text in UTF-8")),
            "header alone": (ROWS, ("the suite has no rows", "captions.csv")),
        },
        started_with(SUITE),
    ),
    *handled(
        "a suite's rows",
        {
            "byte order mark and CRLF": ("\ufeff" + (ROWS + "a,b,1\n").replace("\n", "\r\n"), ("a", "b", 1)),
            "words for nothing": (ROWS + "NA,NaN,1\nnull,,2\n", ("NA", "NaN", 1), ("null", "", 2)),
            # Ours to keep as they are, since they are prompts; results/README.md says what a spreadsheet makes of them.
            "formulas": (ROWS + "=1+1,@SUM(A1),1\n+x,-y,2\n", ("=1+1", "@SUM(A1)", 1), ("+x", "-y", 2)),
            "direction of writing": (ROWS + "a,\u202eb,1\n", ("a", "\u202eb", 1)),
            "type like a path": (ROWS + "../../x,$(touch canary),1\n", ("../../x", "$(touch canary)", 1)),
            "largest seed": (ROWS + f"a,b,{2**63 - 1}\n", ("a", "b", 2**63 - 1)),
        },
        rows_travel,
    ),
    *refusals(
        "a suite's words",
        {
            "NUL": ("object\na\0b\n", ("words.tsv, line 2: it holds a NUL",)),
            "row too long": ("object\nship\na\tb\tc\n", ("words.tsv, line 3: there are more cells than columns",)),
            "latin-1": ("object\ncafé\n".encode("latin-1"), ("words.tsv, line 2: it is no text in UTF-8",)),
            "header twice": ("object\tobject\na\tb\n", ("the column 'object' is there twice",)),
        },
        file_for(
            lambda path: suite_rows({"table": path, "column": "object", "prompt": "{}", "seeds": [1, 1]}), "words.tsv"
        ),
    ),
]


@each_of(CASES)
def test_a_bad_table_is_refused_by_its_line_and_an_odd_one_read_as_it_is(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
