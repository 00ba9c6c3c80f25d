"""Text files from anybody: UTF-8, JSON and tables, read strictly, refused in a sentence that names the place."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path


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


def parse_table(
    content: bytes, source: object, *, separator: str, fill: bool = False, comments: bool = False
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a table, and each row that is not blank: its first line and its cells, one for each column.

    Cells are quoted as in CSV and are texts, whatever they look like. With `fill`, a row that ends early has empty
    cells, as editors strip separators at the end of a line; with `comments`, `without_comments` comes first.

    Raises ValueError, naming `source` and the line, for what is no text in UTF-8 or malformed, a column that is there
    twice, and a row with more or fewer cells than columns.
    """
    text = decoded(content, source)
    text = without_comments(text) if comments else text
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            mend = 'end a cell that begins with " by another, and double each " inside it'
            raise ValueError(f"{source}, line {line}: it cannot be read ({error}); {mend}") from None
        if not cells:
            continue
        if not header:
            header = cells
            if twice := next((name for name in header if name.strip() and header.count(name) > 1), None):
                raise ValueError(f"{source}, line {line}: the column {twice!r} is there twice; remove one")
            continue
        if len(cells) > len(header):
            mend = "put cells that hold the separator in quotes"
            raise ValueError(f"{source}, line {line}: there are more cells than columns; {mend}")
        if len(cells) < len(header) and not fill:
            raise ValueError(f"{source}, line {line}: there are fewer cells than columns; fill in the others")
        rows.append((line, cells + [""] * (len(header) - len(cells))))
    if not header:
        raise ValueError(f"{source}: it is empty; its first line must name its columns")
    return header, rows
