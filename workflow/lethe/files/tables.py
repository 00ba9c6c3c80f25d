"""Text files from anybody: UTF-8, JSON and tables, read strictly, refused in a sentence that names the place."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

QUOTES = 'end a cell that begins with " by another, and double each " inside it'  # the mend of a malformed cell
_JSON = re.compile(rb'\s*(\{\s*"|\[\s*["{\[])')  # a list or object; templates may begin with {}, captions with [


def decoded(content: bytes, source: object) -> str:
    """The text that bytes are in UTF-8, without a byte order mark.

    Raises ValueError, naming `source` and the line, for other bytes and for a NUL, which text does not hold: such a
    file is UTF-16 or no text at all.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{source}, line {line}: it is no text in UTF-8; save it as such") from None
    if (nul := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise ValueError(f"{source}, line {line}: it holds a NUL; save it as text in UTF-8")
    return text


def as_read(text: str) -> str:
    """A text as CLIP's tokenizer reads it: capitals, further space and how accents are composed make no difference."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def lines_of(text: str, source: object) -> list[str]:
    r"""The lines of a text, which end at LF or CR LF alone: what people write may hold U+2028, U+0085, \v or \f.

    Raises ValueError, naming `source` and the line, for a CR without LF: once it ended lines, too, so it is ambiguous.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if number := next((number for number, line in enumerate(lines, start=1) if "\r" in line), 0):
        mend = "save it with lines that end in LF or CR LF"
        raise ValueError(f"{source}, line {number}: it holds a carriage return that ends no line; {mend}")
    return lines


def without_comments(table: str) -> str:
    """A table's text with comments left empty, so that lines keep their numbers: a '#' alone or with space after it."""
    return re.sub(r"^#( .*)?\r?$", "", table, flags=re.MULTILINE)


def read_json(path: Path) -> object:
    """What a JSON file holds. Raises ValueError, naming the file, when it is none; OSError when there is none."""
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError(f"{path}: its JSON is nested too deep to be read") from None
    except ValueError as error:
        raise ValueError(f"{path}: this is no JSON ({error})") from None


def scan_table(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Each row of a table, blank ones too: its first line, and its cells or what is wrong with its quotes.

    Every table of Lethe is read by this, so that none is read in two ways. Cells are quoted as in CSV.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line, row = reader.line_num + 1, None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = error
        yield line, row


def parse_table(
    content: bytes, source: object, *, separator: str, fill: bool = False, comments: bool = False
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a table, and each row that is not blank: its first line and its cells, one for each column.

    Cells are texts, whatever they look like; space around the names of columns does not count. With `fill`, a row that
    ends early has empty cells, as editors strip separators at the end of a line; with `comments`, `without_comments`
    comes first.

    Raises ValueError, naming `source` and the line, for what is no text in UTF-8 or malformed, a column that is there
    twice, and a row with more or fewer cells than columns.
    """
    text = decoded(content, source)
    text = without_comments(text) if comments else text
    header: list[str] = []
    rows = []
    for line, cells in scan_table(io.StringIO(text, newline=""), separator):
        if isinstance(cells, csv.Error):
            raise ValueError(f"{source}, line {line}: it cannot be read ({cells}); {QUOTES}")
        if not cells:
            continue
        if not header:
            header = [name.strip() for name in cells]
            if twice := next((name for name in header if name and header.count(name) > 1), None):
                raise ValueError(f"{source}, line {line}: the column {twice!r} is there twice; remove one")
            continue
        if len(cells) > len(header):
            mend = "put cells that hold the separator in quotes"
            raise ValueError(f"{source}, line {line}: there are more cells than columns; {mend}")
        if len(cells) < len(header) and not fill:
            raise ValueError(f"{source}, line {line}: there are fewer cells than columns; fill in the others")
        rows.append((line, cells if len(cells) == len(header) else cells + [""] * (len(header) - len(cells))))
    if not header:
        raise ValueError(f"{source}: it is empty; its first line must name its columns")
    return header, rows


def read_header(path: Path, separator: str, *, comments: bool = False) -> list[str]:
    """The names of a table's columns, of which nothing further is read; none for an empty file.

    Raises OSError, UnicodeDecodeError or csv.Error when it is no table in UTF-8.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        lines = (without_comments(line) if comments else line for line in file)
        for _, cells in scan_table(lines, separator):
            if isinstance(cells, csv.Error):
                raise cells
            if cells:
                return [name.strip() for name in cells]
    return []


def no_list_of_texts(path: Path) -> str | None:
    """What a file is that is given as one text a line but is none, by its name and how it begins; None if it may be.

    Raises OSError when it cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    with Path(path).open("rb") as file:
        start = file.read(4096)
    if suffix in (".csv", ".tsv", ".tab"):
        return "a table, whose header and cells are no texts; name the column that holds the texts"
    if suffix in (".json", ".jsonl", ".ndjson") or _JSON.match(start.removeprefix(b"\xef\xbb\xbf")):
        return "JSON, whose lines are no texts; write one text a line, or make it a table and name its column"
    if b"\0" in start or start.startswith(b"\x1f\x8b"):
        return "no text; write one text a line, in UTF-8"
    return None


def separator_of(path: str | Path) -> str:
    """What separates the columns of a table of texts: a tab if its name ends in .tsv or .tab, else a comma."""
    return "\t" if Path(path).suffix.lower() in (".tsv", ".tab") else ","


def read_texts(path: Path, column: str | None) -> list[str]:
    """The texts in a column of a table (`separator_of` its name), or, without `column`, one text per line.

    Without surrounding space; blank lines do not count. Raises ValueError, naming the file, when there is no such
    column, no text or a row without one, and for what `parse_table`, `lines_of` or `no_list_of_texts` refuse.
    """
    path = Path(path)
    if column is None:
        content = path.read_bytes()
        texts = [line.strip() for line in lines_of(decoded(content, path), path) if line.strip()]
        if texts and (problem := no_list_of_texts(path)):
            raise ValueError(f"{path}: it is {problem}")
    else:
        texts = _column(path, column)
    if not texts:
        raise ValueError(f"{path}: there is no text in it")
    return texts


def _column(path: Path, column: str) -> list[str]:
    header, rows = parse_table(path.read_bytes(), path, separator=separator_of(path), fill=True)
    if column not in header:
        raise ValueError(f"{path}: there is no column {column!r}; its columns are {', '.join(header)}")
    place, texts = header.index(column), []
    for line, cells in rows:
        if not cells[place].strip():
            raise ValueError(f"{path}, line {line}: {column} is empty; fill it in, or remove the row")
        texts.append(cells[place].strip())
    return texts
