"""Files that appear whole or not at all, and archives of images with their rows."""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd  # imported where used: a step that reads no table starts half a second sooner

T = TypeVar("T")

ROWS_NAME = "rows.csv"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` if the block ends well, remove it if not.

    Whoever was killed while it wrote the same file left its part behind, which is removed first. Should it be at work
    after all, on a node given up for dead or for a run that was killed, it finds its part gone and raises
    FileNotFoundError: the last to begin writes the file. An error on the way gets a note that names the file.
    """
    path = Path(path)
    part = _part_beside(path)
    try:
        yield part
        _move(part, path)
    except Exception as error:
        error.add_note(f"while writing {path}")
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; move it to `path` if the block ends well, remove it if not.

    Raises ValueError when `path` is there already and is anything but an empty folder. What is left of a writer that
    was killed is removed, as in `written_whole`.
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: it is there already; name a folder that does not exist or is empty")
    part = _part_beside(path)
    part.mkdir()
    try:
        yield part
        _move(part, path)
    except Exception as error:
        error.add_note(f"while writing {path}")
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    """The permissions that new files of this process lack; the system tells it only while setting another."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _part_beside(path: Path) -> Path:
    """A new name for the unfinished file or folder, in the same folder; those that others left there are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = "[0-9a-f]" * 8
    for left in path.parent.glob(f".{glob.escape(path.name)}.{token}.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    # Not the process id: processes on two nodes, or in two containers, may have the same.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _move(part: Path, path: Path) -> None:
    if not part.exists():
        raise FileNotFoundError(f"{path}: nothing was written, or another process began to write it in the meantime")
    if part.is_file():
        part.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
    part.replace(path)


class Loaded(Sequence[T]):
    """A sequence of what `load` makes of each path, read again at every access: only what is in use takes memory."""

    def __init__(self, load: Callable[[Path], T], paths: Sequence[Path]) -> None:
        self.load, self.paths = load, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> T:
        return self.load(self.paths[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.load, self.paths)


def write_shard(path: Path, rows: pd.DataFrame, images: Sequence[np.ndarray]) -> None:
    """Write images (uint8 `[h, w, 3]` or `[h, w]`) as `<row>.png` with their rows as `rows.csv` into one zip.

    The row is the index of `rows`. Equal content gives equal bytes: fixed dates and order, no compression twice.
    Raises ValueError when rows and images differ in number.
    """
    if len(rows) != len(images):
        raise ValueError(f"write_shard: `images` must have one image per row; got {len(images)} for {len(rows)} rows")
    with written_whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(ROWS_NAME, _EPOCH), rows_as_csv(rows))
        for row, image in zip(rows.index, images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=False)
            archive.writestr(zipfile.ZipInfo(image_name(row), _EPOCH), buffer.getvalue())


def rows_as_csv(rows: pd.DataFrame) -> str:
    """Rows as the CSV that `read_row_table` reads; texts are quoted, so they may hold any line break."""
    return rows.to_csv(index_label="row", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a shard: index `row`, columns type, prompt, evaluation_seed and any further ones, in order."""
    with zipfile.ZipFile(path) as archive, archive.open(ROWS_NAME) as file:
        return read_row_table(file)


def read_row_table(source: Path | io.IOBase) -> pd.DataFrame:
    """Read a CSV of rows (type, prompt, evaluation_seed); texts stay texts, so a prompt may be 'NA'."""
    import pandas as pd

    texts = {"type": str, "prompt": str}
    table = pd.read_csv(source, dtype=texts, keep_default_na=False, encoding="utf-8-sig")
    return table.set_index("row") if "row" in table else table.rename_axis("row")


def read_cells(path: Path, column: str) -> list[str]:
    """The texts in one column of a shard's rows, in order; raises KeyError when there is no such column."""
    with zipfile.ZipFile(path) as archive, archive.open(ROWS_NAME) as file:
        return [row[column] for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))]


def separator_of(path: str | Path) -> str:
    """What separates the columns of a table of texts: a tab if its name ends in .tsv or .tab, else a comma."""
    return "\t" if Path(path).suffix.lower() in (".tsv", ".tab") else ","


def without_comments(table: str) -> str:
    """A table's text with comments left empty, so that lines keep their numbers: a '#' alone or with space after it."""
    return re.sub(r"^#( .*)?\r?$", "", table, flags=re.MULTILINE)


def read_texts(path: Path, column: str | None) -> list[str]:
    """The texts in a column of a table (`separator_of` its name), or, without `column`, one text per line.

    Without surrounding space; blank lines do not count. Raises ValueError, naming the file, when there is no such
    column, no text, a row without one or with more cells than the header, and for text that is not UTF-8.
    """
    path = Path(path)
    try:
        if column is None:
            texts = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                texts = list(_column(path, csv.DictReader(file, delimiter=separator_of(path)), column))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: it is no text in UTF-8 ({error}); save it as such") from None
    if not texts:
        raise ValueError(f"{path}: there is no text in it")
    return texts


def _column(path: Path, table: csv.DictReader, column: str) -> Iterator[str]:
    if column not in (table.fieldnames or ()):
        raise ValueError(f"{path}: there is no column {column!r}; its columns are {', '.join(table.fieldnames or ())}")
    for row in table:
        if None in row:
            mend = "put cells that hold the separator in quotes"
            raise ValueError(f"{path}, line {table.line_num}: there are more cells than columns; {mend}")
        if not (row[column] or "").strip():
            raise ValueError(f"{path}, line {table.line_num}: {column} is empty; fill it in, or remove the row")
        yield row[column].strip()


def read_images(path: Path, rows: Sequence[int] | None = None) -> list[np.ndarray]:
    """The images of a shard as uint8 arrays, in the order of `rows` (all of them by default)."""
    wanted = read_rows(path).index if rows is None else rows
    with zipfile.ZipFile(path) as archive:
        return [np.asarray(Image.open(io.BytesIO(archive.read(image_name(row))))) for row in wanted]


def image_name(row: int) -> str:
    """The name of a row's image inside its shard."""
    return f"{row:06d}.png"
