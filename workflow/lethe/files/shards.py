"""Files that appear whole or not at all, and archives of images with their rows."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from lethe.files.tables import parse_table
from lethe.files.whole import written_whole

if TYPE_CHECKING:
    import pandas as pd  # imported where used: a step that reads no table starts half a second sooner


ABOUT_NAME = "shard.json"
ROWS_NAME = "rows.csv"
SAMPLES_NAME = "samples.json"  # beside the images that `lethe sample` draws
ROWS_LIMIT = 1 << 28  # bytes: more than a million rows of long prompts, while a small zip can promise any number
SEED_LIMIT = 1 << 63  # generators take more, but tables of numbers hold signed 64-bit integers
COLUMNS = ["type", "prompt", "evaluation_seed"]  # of rows; the field's own
OWN_SETTINGS = ["guidance", "width", "height"]  # of the sampler, which rows may bring along
SIDE_LIMIT = 4096  # pixels; what asks for more would end for want of memory after hours
MODES = ("L", "RGB")  # of the images that `write_shard` writes
PICTURES = ("PNG", "JPEG")  # of images that others made
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_shard(
    path: Path, rows: pd.DataFrame, images: Sequence[np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Write images (uint8 `[h, w, 3]` or `[h, w]`) as `<row>.png` with their rows as `rows.csv` into one zip.

    The row is the index of `rows`; `about`, what the shard is of (base, edit, suite, shard), is kept as `shard.json`.
    Equal content gives equal bytes: fixed dates and order, no compression twice.
    Raises ValueError when rows and images differ in number.
    """
    if len(rows) != len(images):
        raise ValueError(f"write_shard: `images` must have one image per row; got {len(images)} for {len(rows)} rows")
    with written_whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(ROWS_NAME, _EPOCH), rows_as_csv(rows))
        if about is not None:
            archive.writestr(zipfile.ZipInfo(ABOUT_NAME, _EPOCH), json.dumps(about, sort_keys=True))
        for row, image in zip(rows.index, images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=False)
            archive.writestr(zipfile.ZipInfo(image_name(row), _EPOCH), buffer.getvalue())


def rows_as_csv(rows: pd.DataFrame) -> str:
    """Rows as the CSV that `read_rows` reads; texts are quoted, so they may hold any line break."""
    return rows.to_csv(index_label="row", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a shard: index `row`, columns type, prompt, evaluation_seed and any further ones, in order.

    Texts stay texts, so a prompt may be 'NA'. Raises ValueError, naming the file, when it is no shard, and the line for
    what `parse_table` or `rows_from` refuse, a missing column, and a column `row` whose numbers are not all different.
    """
    with _archive(path) as archive:
        return _row_table(_rows_of(archive), f"{path}: {ROWS_NAME}")


def read_about(path: Path) -> dict[str, str]:
    """What a shard says that it is of. Raises ValueError, naming the file, when it says nothing."""
    with _archive(path) as archive:
        try:
            about = json.loads(archive.read(ABOUT_NAME))
        except (KeyError, ValueError):
            about = None
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise ValueError(f"{path}: this shard does not say what it is of ({ABOUT_NAME}); make it again")
    return about


def _row_table(content: bytes, source: object) -> pd.DataFrame:
    header, rows = parse_table(content, source, separator=",")
    if missing := [column for column in COLUMNS if column not in header]:
        raise ValueError(f"{source}: the column {missing[0]} is missing; rows need {', '.join(COLUMNS)}")
    table = rows_from(rows, {name: (name, header.index(name)) for name in header if name}, source)
    if "row" not in table:
        return table.rename_axis("row")
    lines: dict[int, int] = {}
    for number, (line, _) in zip(table["row"], rows, strict=True):
        if lines.setdefault(number, line) != line:
            raise ValueError(f"{source}, line {line}: row {number} is already in line {lines[number]}")
    return table.set_index("row")


def rows_from(
    rows: Sequence[tuple[int, list[str]]], columns: Mapping[str, tuple[str, int]], source: object
) -> pd.DataFrame:
    """A data frame of `columns` (each with its name in the file and its place) of rows that `parse_table` gives.

    Types and prompts are texts, seeds and the column `row` int64, guidance float64, width and height int64; further
    columns are int64 where every cell is a whole number, else texts. Seeds may be written as 2024.0.

    Raises ValueError, naming `source`, line and column, for a cell that is not what its column holds.
    """
    import pandas as pd

    table = {}
    for name, (called, place) in columns.items():
        cells = [row[place] for _, row in rows]
        if name in _READ:
            read, wanted = _READ[name]
            values = [read(cell.strip()) for cell in cells]
            if None in values:
                line, row = rows[values.index(None)]
                raise ValueError(f"{source}, line {line}: {called} must be {wanted}; got {row[place][:40]!r}")
            cells = values
        elif name not in COLUMNS and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", cell) for cell in cells):
            cells = [int(cell) for cell in cells]
        table[name] = cells
    return pd.DataFrame(table)


def _whole(cell: str) -> int | None:
    """A whole number from 0 on that a table of numbers can hold, perhaps written as 7.0."""
    if cell.isascii() and cell.isdigit() and len(cell) < 19:  # as nearly all are
        return int(cell)
    digits = re.fullmatch(r"([0-9]{1,19})(\.0*)?", cell, re.ASCII)
    return int(digits[1]) if digits and int(digits[1]) < SEED_LIMIT else None


def _scale(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _side(cell: str) -> int | None:
    value = _whole(cell)
    return value if value and value % 8 == 0 and value <= SIDE_LIMIT else None


_READ: dict[str, tuple[Callable[[str], int | float | None], str]] = {
    **dict.fromkeys(("row", "evaluation_seed"), (_whole, f"a whole number from 0 to {SEED_LIMIT - 1}")),
    "guidance": (_scale, "a number, 0 or more"),
    **dict.fromkeys(("width", "height"), (_side, f"a multiple of 8 from 8 to {SIDE_LIMIT}")),
}


def read_cells(path: Path, column: str) -> list[str]:
    """The texts in one column of a shard's rows, in order; raises KeyError when there is no such column."""
    with _archive(path) as archive:
        header, rows = parse_table(_rows_of(archive), f"{path}: {ROWS_NAME}", separator=",")
    place = {name: index for index, name in enumerate(header)}[column]
    return [cells[place] for _, cells in rows]


class _Folder:
    """A folder, read as if it were an archive of its files; hidden ones do not count."""

    def __init__(self, path: Path) -> None:
        self.filename = str(path)
        self._path = Path(path)

    def namelist(self) -> list[str]:
        names: list[str] = []
        seen: set[str] = set()  # of folders, since links may lead back
        for folder, inner, files in os.walk(self._path, followlinks=True):
            real = os.path.realpath(folder)
            inner[:] = [] if real in seen else [name for name in inner if not name.startswith(".")]
            names += [] if real in seen else [f"{folder}/{file}" for file in files if not file.startswith(".")]
            seen.add(real)
        return [Path(name).relative_to(self._path).as_posix() for name in names]

    def open(self, name: str) -> IO[bytes]:
        return (self._path / name).open("rb")


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive to read members by name; nothing is ever extracted to where a member says.

    Raises ValueError, naming the file, for what is none, damaged or encrypted, and for a member that is not there or
    there twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = Counter(archive.namelist())
            if twice := next((name for name, count in names.items() if count > 1), None):
                raise ValueError(f"{path}: it holds {twice!r} twice; make it again")
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: this is no zip archive, or a damaged one ({error}); make it again") from None
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}; make it again") from None


@contextmanager
def _pictures(path: Path) -> Iterator[zipfile.ZipFile | _Folder]:
    """What `_archive` opens, or a folder."""
    if Path(path).is_dir():
        yield _Folder(path)
    else:
        with _archive(path) as archive:
            yield archive


def _rows_of(archive: zipfile.ZipFile) -> bytes:
    size = archive.getinfo(ROWS_NAME).file_size
    if size > ROWS_LIMIT:
        raise ValueError(f"{archive.filename}: {ROWS_NAME} takes {size} bytes, more than {ROWS_LIMIT}; split it")
    return archive.read(ROWS_NAME)


def file_columns(columns: Mapping[str, str | None] | None) -> dict[str, str]:
    """Which column of a suite's file holds each column of its rows, for its `columns` as configured.

    By default they have the same names. A type that is null is left out. (Where `columns` are given without a type, it
    may be missing from the file.)
    """
    named = dict(zip(COLUMNS, COLUMNS, strict=True)) | dict(columns or {})
    return {name: column for name, column in named.items() if column is not None}


def read_images(path: Path, rows: Sequence[int] | None = None) -> list[np.ndarray]:
    """The images of a shard as uint8 arrays, in the order of `rows` (all of them by default).

    Raises ValueError, naming file and image, for one that is missing or no PNG of `MODES`.
    """
    wanted = read_rows(path).index if rows is None else rows
    with _archive(path) as archive:
        images = []
        for row in wanted:
            with _image(archive, image_name(row)) as image:
                if image.mode not in MODES:
                    told = f"{image_name(row)} is a PNG of mode {image.mode}, not {' or '.join(MODES)}"
                    raise ValueError(f"{path}: {told}; save it with 8 bits a channel")
                images.append(np.asarray(image))
        return images


def holds_rows(path: Path) -> bool:
    """Whether images are a shard, which has its rows inside. Raises ValueError for what `_archive` refuses."""
    if Path(path).is_dir():
        return False
    with _archive(path) as archive:
        return ROWS_NAME in archive.namelist()


def read_beside(path: Path, name: str) -> bytes | None:
    """A file beside images, in their zip archive or folder, up to `ROWS_LIMIT`; None if there is none of that name."""
    with _pictures(path) as archive:
        if name not in archive.namelist():
            return None
        with archive.open(name) as file:
            return file.read(ROWS_LIMIT)


def picture_names(path: Path, beside: Collection[str] = ()) -> list[str]:
    """The names of the images in a zip archive or folder, sorted: those that end in .png, .jpg or .jpeg.

    Files `rows.csv` and `shard.json`, as a shard has them, `samples.json`, as `lethe sample` writes it, those named
    `beside`, and hidden files and folders do not count.
    Raises ValueError, naming the file, when there is no image, for what `_archive` refuses, and for any other file.
    """
    with _pictures(path) as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if not name.endswith("/") and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        )
    names = [name for name in names if name not in (ROWS_NAME, ABOUT_NAME, SAMPLES_NAME, "Thumbs.db", *beside)]
    others = [name for name in names if not name.lower().endswith((".png", ".jpg", ".jpeg"))]
    if others:
        more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
        raise ValueError(f"{path}: {others[0]!r}{more} in it is no PNG or JPEG by its name; remove it, or convert it")
    if not names:
        raise ValueError(f"{path}: there is no PNG or JPEG in it; put images there")
    return names


def check_images(path: Path, names: Sequence[str]) -> None:
    """Look at the headers of images in a zip archive or folder, before the first of them is measured.

    Raises ValueError, naming file and image, for one that is missing, no PNG or JPEG, larger than Pillow's limit or of
    more than 8 bits a channel.
    """
    with _pictures(path) as archive:
        for name in names:
            with _image(archive, name, PICTURES) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"{path}: {name} has more than 8 bits a channel; save it with 8")


def read_pictures(path: Path, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Images of a zip archive or folder in RGB, uint8 `[h, w, 3]`, in the order of `names`, one after the other.

    Raises ValueError, naming file and image, for one that is missing, damaged, or no PNG or JPEG.
    """
    with _pictures(path) as archive:
        for name in names:
            with _image(archive, name, PICTURES) as image:
                pixels = np.array(image.convert("RGB"))  # a copy, which torch may write to
            yield pixels


@contextmanager
def _image(archive: zipfile.ZipFile | _Folder, name: str, formats: Sequence[str] = ("PNG",)) -> Iterator[Image.Image]:
    """Open an image of an archive. No other format: Pillow's reader of PostScript runs a program."""
    with archive.open(name) as file:
        try:
            with Image.open(file, formats=formats) as image:
                yield image
        except (OSError, SyntaxError, Image.DecompressionBombError, zlib.error, zipfile.BadZipFile) as error:
            kinds = " or ".join(formats)
            told = f"{name} is no {kinds} that can be read ({error}); make it again"
            raise ValueError(f"{archive.filename}: {told}") from None


def image_name(row: int) -> str:
    """The name of a row's image inside its shard."""
    return f"{row:06d}.png"


def image_names(rows: pd.DataFrame) -> list[str]:
    """What messages call the images of rows: their names in the shard; of rows that are no shard's, the column name."""
    of_shard = "evaluation_seed" in rows or "name" not in rows  # whose own rows may have any further column
    return [image_name(row) for row in rows.index] if of_shard else list(rows["name"])
