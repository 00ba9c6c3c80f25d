"""Concepts: what to erase, what it should mean afterwards, and the names its files get."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lethe.files.tables import QUOTES, as_read, scan_table, without_comments
from lethe.messages import ConfigError, has_control, nearest, shown

KINDS = ("object", "style", "person", "explicit")
COLUMNS = ("concept", "kind", "anchor", "synonyms")
SLUG_LENGTH = 60


@dataclass(frozen=True)
class Concept:
    """A phrase to erase, one of `KINDS`, what its prompts should mean afterwards, and other words for it."""

    name: str
    kind: str
    anchor: str
    synonyms: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name of its files."""
        return slug_of(self.name)


def slug_of(name: str) -> str:
    """Return a file name for `name`: ASCII lower case, digits and single '-', beginning with neither '-' nor '.'.

    Accents are dropped and every run of other characters becomes one '-'; at most 60 characters are kept. Names of
    ASCII letters and digits, with single spaces or '-' between, keep all they are in it; any other ends in eight digits
    of its SHA-256, so that Böcklin is not Bocklin, nor C++ C#. It depends on the name alone: no concept renames
    another's files. A name that leaves nothing, or ends in 20 repetitions, which Snakemake takes for an endless
    recursion, gets 'c-' and ten digits. Names that `as_read` takes for one share a slug, and so do those that differ in
    '-' for a space: `read_concepts` refuses.
    """
    read = as_read(name)
    digest = hashlib.sha256(read.encode("utf-8", "surrogatepass")).hexdigest()
    letters = (char for char in unicodedata.normalize("NFKD", name) if unicodedata.category(char) != "Mn")
    slug = re.sub(r"[^a-z0-9]+", "-", "".join(letters).lower()).strip("-")
    if not slug or re.search(r"(.+)\1{19}$", slug[:SLUG_LENGTH].rstrip("-")):
        return f"c-{digest[:10]}"
    if slug == read.replace(" ", "-") and len(slug) <= SLUG_LENGTH:
        return slug
    return f"{slug[: SLUG_LENGTH - 9].rstrip('-')}-{digest[:8]}"


def read_concepts(path: str | Path) -> list[Concept]:
    """Read a concept table: UTF-8, tab-separated, with the columns `COLUMNS` in any order, synonyms split at ';'.

    Cells are text, whatever they look like, without surrounding space. Comments (`without_comments`) and lines without
    text are skipped. A cell that begins with a double quote is quoted as in CSV.

    Raises: ConfigError with every problem found, each naming the file, the row (its line) and the column.
    """
    rows, problems = _read_rows(without_comments(_read_text(path)))
    top, header = rows[0] if rows else (1, [])
    problems += [f"row {top}: {problem}" for problem in _header_problems(header)]
    line_of: dict[str, int] = {}
    line_of_slug: dict[str, tuple[str, int]] = {}
    concepts = []
    for line, cells in rows[1:]:
        at = f"row {line}: "
        if len(cells) > len(header):
            problems.append(f"{at}{len(cells)} cells under {len(header)} columns; remove a tab, or add the column.")
        # Editors strip the tab before an empty last cell.
        row = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
        problems += [at + problem for problem in _row_problems(row)]
        name = row.get("concept", "")
        if not name:
            continue
        slug = slug_of(name)
        if name in line_of:
            problems.append(f"{at}concept {shown(name)} is already in row {line_of[name]}; remove one of the two.")
        elif slug in line_of_slug:
            other, other_line = line_of_slug[slug]
            problems.append(
                f"{at}concept {shown(name)} and {shown(other)} in row {other_line} share the slug {slug}, "
                "which names their files; reword one of them."
            )
        line_of.setdefault(name, line)
        line_of_slug.setdefault(slug, (name, line))
        synonyms = (word.strip() for word in row.get("synonyms", "").split(";"))
        concepts.append(Concept(name, row.get("kind", ""), row.get("anchor", ""), tuple(filter(None, synonyms))))
    if len(rows) < 2 and not problems:
        problems.append("there are no rows; add one for each concept to erase.")
    if problems:
        raise ConfigError(*(f"{path}: {problem}" for problem in problems))
    return concepts


def _read_text(path: str | Path) -> str:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
        raise ConfigError(f"{path}: {reason}; correct the path.") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: row {line}: these bytes are not UTF-8; save the table as UTF-8.") from None


def _read_rows(text: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Rows that hold any text, each with the number of its first line and its cells stripped; and what is wrong."""
    rows, problems = [], []
    for line, cells in scan_table(io.StringIO(text, newline=""), "\t"):
        if isinstance(cells, csv.Error):
            problems.append(f"row {line}: a quoted cell is malformed ({shown(str(cells))}); {QUOTES}.")
        elif any(cells := [cell.strip() for cell in cells]):
            rows.append((line, cells))
    return rows, problems


def _header_problems(header: list[str]) -> list[str]:
    expected = f"The columns are {', '.join(COLUMNS)}, separated by tabs."
    problems = [f"the column {column} is missing; add it. {expected}" for column in COLUMNS if column not in header]
    for index, column in enumerate(header):
        if column not in COLUMNS:
            close = nearest(column, COLUMNS)
            mend = f"did you mean {close}?" if close else "remove it."
            problems.append(f"{shown(column)} is not a known column; {mend} {expected}")
        elif column in header[:index]:
            problems.append(f"the column {column} is there twice; remove one.")
    return problems


def _row_problems(row: dict[str, str]) -> list[str]:
    """What is wrong with a row by itself; columns that the table lacks are passed over."""
    whose = f" of {shown(row['concept'])}" if row.get("concept") else ""
    problems = [
        f"column {column} holds a line break, invisible or control character: {shown(cell)}; remove it."
        for column, cell in row.items()
        if has_control(cell)
    ]
    if row.get("concept") == "":
        problems.append("column concept is empty; write the phrase to erase, or remove the row.")
    kind = row.get("kind")
    if kind is not None and kind not in KINDS:
        close = nearest(kind, KINDS)
        mend = f"; did you mean {close}?" if close else "."
        problems.append(f"column kind{whose} must be one of {', '.join(KINDS)}; got {shown(kind)}{mend}")
    anchor = row.get("anchor")
    if anchor == "":
        problems.append(f"column anchor{whose} is empty; write what its prompts should mean afterwards.")
    elif anchor is not None and anchor.casefold() == row.get("concept", "").casefold():
        problems.append(f"column anchor{whose} is the concept itself; write what its prompts should mean instead.")
    return problems
