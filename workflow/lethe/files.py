"""Files that appear whole or not at all, and archives of images with their rows."""

from __future__ import annotations

import csv
import glob
import io
import os
import secrets
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from lethe.text_files import decoded, parse_table

if TYPE_CHECKING:
    import pandas as pd  # imported where used: a step that reads no table starts half a second sooner

T = TypeVar("T")

ROWS_NAME = "rows.csv"
ROWS_LIMIT = 1 << 28  # bytes: more than a million rows of long prompts, while a small zip can promise any number
SEED_LIMIT = 1 << 63  # generators take more, but tables of numbers hold signed 64-bit integers
COLUMNS = ["type", "prompt", "evaluation_seed"]  # of rows; the field's own
MODES = ("L", "RGB")  # of the images that `write_shard` writes
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
    if path.is_symlink():
        raise ValueError(f"{path}: it is a link; name the folder to write itself")
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
    """The rows of a shard: index `row`, columns type, prompt, evaluation_seed and any further ones, in order.

    Raises ValueError, naming the file, when it is no shard, and the line for what `read_row_table` refuses.
    """
    with _archive(path) as archive:
        return _row_table(_rows_of(archive), f"{path}: {ROWS_NAME}")


def read_row_table(path: Path) -> pd.DataFrame:
    """Read a CSV of rows (type, prompt, evaluation_seed); texts stay texts, so a prompt may be 'NA'.

    Raises ValueError, naming file and line, for what `parse_table` refuses, a missing column, a seed that is no whole
    number from 0 to 2^63 - 1, and a column `row` whose numbers are none or not all different.
    """
    return _row_table(Path(path).read_bytes(), path)


def _row_table(content: bytes, source: object) -> pd.DataFrame:
    import pandas as pd

    header, rows = parse_table(content, source, separator=",")
    if missing := [column for column in COLUMNS if column not in header]:
        raise ValueError(f"{source}: the column {missing[0]} is missing; rows need {', '.join(COLUMNS)}")
    lines: dict[int, int] = {}
    for column in [name for name in ("row", "evaluation_seed") if name in header]:
        place = header.index(column)
        for line, cells in rows:
            digits = cells[place].strip()
            if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) < SEED_LIMIT):
                wanted = f"a whole number from 0 to {SEED_LIMIT - 1}"
                raise ValueError(f"{source}, line {line}: {column} must be {wanted}; got {cells[place][:40]!r}")
            if column == "row" and lines.setdefault(int(digits), line) != line:
                raise ValueError(f"{source}, line {line}: row {digits} is already in line {lines[int(digits)]}")
    texts = {"type": str, "prompt": str}
    table = pd.read_csv(io.BytesIO(content), dtype=texts, keep_default_na=False, encoding="utf-8-sig")
    return table.set_index("row") if "row" in table else table.rename_axis("row")


def read_cells(path: Path, column: str) -> list[str]:
    """The texts in one column of a shard's rows, in order; raises KeyError when there is no such column."""
    with _archive(path) as archive:
        header, rows = parse_table(_rows_of(archive), f"{path}: {ROWS_NAME}", separator=",")
    place = {name: index for index, name in enumerate(header)}[column]
    return [cells[place] for _, cells in rows]


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


def _rows_of(archive: zipfile.ZipFile) -> bytes:
    size = archive.getinfo(ROWS_NAME).file_size
    if size > ROWS_LIMIT:
        raise ValueError(f"{archive.filename}: {ROWS_NAME} takes {size} bytes, more than {ROWS_LIMIT}; split it")
    return archive.read(ROWS_NAME)


def separator_of(path: str | Path) -> str:
    """What separates the columns of a table of texts: a tab if its name ends in .tsv or .tab, else a comma."""
    return "\t" if Path(path).suffix.lower() in (".tsv", ".tab") else ","


def read_texts(path: Path, column: str | None) -> list[str]:
    """The texts in a column of a table (`separator_of` its name), or, without `column`, one text per line.

    Without surrounding space; blank lines do not count. Raises ValueError, naming the file, when there is no such
    column, no text or a row without one, and for what `parse_table` refuses.
    """
    path = Path(path)
    if column is None:
        texts = [line.strip() for line in decoded(path.read_bytes(), path).splitlines() if line.strip()]
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


def check_images(path: Path, names: Sequence[str]) -> None:
    """Look at the headers of images in a zip archive, before what would take any format reads them.

    Raises ValueError, naming file and image, for one that is missing, no PNG, larger than Pillow's limit or of more
    than 8 bits a channel.
    """
    with _archive(path) as archive:
        for name in names:
            with _image(archive, name) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"{path}: {name} has more than 8 bits a channel; save it with 8")


@contextmanager
def _image(archive: zipfile.ZipFile, name: str) -> Iterator[Image.Image]:
    """Open a PNG of an archive. No other format: Pillow's reader of PostScript runs a program."""
    with archive.open(name) as file:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                yield image
        except (OSError, SyntaxError, Image.DecompressionBombError, zlib.error) as error:
            raise ValueError(
                f"{archive.filename}: {name} is no PNG that can be read ({error}); make it again"
            ) from None


def image_name(row: int) -> str:
    """The name of a row's image inside its shard."""
    return f"{row:06d}.png"
