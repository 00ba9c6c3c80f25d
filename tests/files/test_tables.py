"""Text files: what a writer of CSV wrote comes back, and what is no text or no table is refused with its line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.files.tables import as_read, decoded, lines_of, no_list_of_texts, parse_table, read_header, read_json

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), max_size=4))


@settings(derandomize=True, max_examples=80, deadline=None)
@given(rows=TABLES, separator=st.sampled_from(",\t"), mark=st.booleans())
def test_what_was_written_as_csv_comes_back(rows: list[list[str]], separator: str, mark: bool) -> None:
    header = [f"column {n}" for n in range(len(rows[0]) if rows else 1)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    content = ("\ufeff" * mark + file.getvalue()).encode()
    found, cells = parse_table(content, "a.csv", separator=separator)
    assert (found, [row for _, row in cells]) == (header, rows)


def test_lines_are_those_of_the_file_where_a_row_begins() -> None:
    _, rows = parse_table(b'a,b\n\n1,"x\ny"\n\n2,z\n', "a.csv", separator=",")
    assert rows == [(3, ["1", "x\ny"]), (6, ["2", "z"])]


def test_short_rows_are_filled_where_asked() -> None:
    assert parse_table(b"a\tb\tc\n1\n", "a.tsv", separator="\t", fill=True)[1] == [(2, ["1", "", ""])]
    with pytest.raises(ValueError, match=r"a\.tsv, line 2: there are fewer cells than columns"):
        parse_table(b"a\tb\tc\n1\n", "a.tsv", separator="\t")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_table_without_a_header_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.csv: it is empty; its first line must name its columns"):
        parse_table(content, "a.csv", separator=",")


def test_columns_without_a_name_may_repeat() -> None:
    assert parse_table(b",a,\n0,1,2\n", "a.csv", separator=",")[0] == ["", "a", ""]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\xe9", "line 2: it is no text in UTF-8"),
        ("a".encode("utf-16"), "line 1"),
        (b"a\n\nb\0", "line 3: it holds"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=f"a.txt, {words}"):
        decoded(content, "a.txt")


def test_json_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, "ü"]}
    for content, words in {"{": "this is no JSON", "[" * 100_000: "its JSON is nested too deep"}.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"a\.json: {words}"):
            read_json(path)


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_lines_end_at_line_feeds_alone(inside: str) -> None:
    assert lines_of(f"a{inside}b\r\nc{inside}\n\nd", "a.txt") == [f"a{inside}b", f"c{inside}", "", "d"]


@pytest.mark.parametrize("text", ["a\nb\rc\n", "a\rb\rc", "a\r\r\n"])
def test_a_carriage_return_that_ends_no_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a\.txt, line [12]: it holds a carriage return that ends no line; save it"):
        lines_of(text, "a.txt")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "text\na ship\n", "a table"),
        ("a.TSV", "a ship", "a table"),
        ("a.tab", "a ship", "a table"),
        ("a.json", '"a ship"', "JSON"),
        ("a.jsonl", "1", "JSON"),
        ("a.txt", ' {\n "ship": ["boat"]\n}', "JSON"),
        ("a.txt", '\ufeff["a ship",\n "a bird"]', "JSON"),
        ("a", '[{"caption": "a"}]', "JSON"),
        ("a.txt", "a\0", "no text"),
        ("a.txt", "{} in a park\n", None),
        ("a.txt", "[a photo] of a ship, {really}\n", None),
        ("a.txt", '"a ship", she said\n', None),
        ("a", "", None),
    ],
)
def test_what_is_no_list_of_texts_is_known_by_its_name_and_beginning(
    tmp_path: Path, name: str, content: str, told: str | None
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = no_list_of_texts(tmp_path / name)
    assert found is None if told is None else found.startswith(told)


def test_a_header_is_that_of_the_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('\ufeff# of ships\n\n a \t"b\tc"\n1\t2\n', encoding="utf-8")
    header, rows = parse_table(path.read_bytes(), path, separator="\t", comments=True)
    assert read_header(path, "\t", comments=True) == header == ["a", "b\tc"]
    assert rows == [(4, ["1", "2"])]
    path.write_text("")
    assert read_header(path, "\t") == []


def test_what_a_tokenizer_reads_alike() -> None:
    assert as_read(" The  Caf\xe9\u2003") == as_read("the cafe\u0301") == "the caf\xe9"
    assert as_read("cafe") != as_read("caf\xe9")
