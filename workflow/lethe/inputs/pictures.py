"""Any folder or zip of images, of Lethe or of others: which images there are, and the prompt of each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lethe.files.shards import SAMPLES_NAME, holds_rows, image_name, picture_names, read_beside, read_rows
from lethe.files.tables import parse_table, separator_of
from lethe.inputs.concepts import slug_of
from lethe.messages import nearest

NAMED = re.compile(r"(.*)_[0-9]+", re.DOTALL)  # PROMPT_SEED, without the suffix
COLUMNS = ("file", "prompt")  # of a table of prompts
MEND = "name images PROMPT_SEED.png, or name a table with the columns file and prompt by --prompts"


@dataclass(frozen=True)
class Pictures:
    """The images of one folder or zip.

    archive: where they are.  names: theirs in it.  files: what a table calls them.  rows: one for each; of a shard its
    own, of others the column name, and prompt where prompts are known.  source: where prompts come from, '' if nowhere.
    """

    archive: Path
    names: Sequence[str]
    files: Sequence[str]
    rows: pd.DataFrame
    source: str


def pictures_in(path: Path, table: Path | None = None, *, prompts: bool = False) -> list[Pictures]:
    """The images of a folder or zip, or of each zip in a folder that holds nothing else, as a suite's shards do.

    Prompts are those of the `table` (columns file and prompt), or else of a shard's rows, or of what `lethe sample`
    writes beside its images, or of the images' names, PROMPT_SEED.png.

    Raises ValueError, naming the file, when there is no image, for what `picture_names`, `read_rows` and
    `parse_table` refuse, for a table that does not name each image once, and, where `prompts` are wanted, for an image
    without one or with a name that can be read in two ways.
    """
    beside = []
    if table is not None and path.is_dir() and table.resolve().is_relative_to(path.resolve()):
        beside = [table.resolve().relative_to(path.resolve()).as_posix()]
    archives = _archives(path, beside)
    found = [_pictures(archive, beside, f"{archive.name}/" if archive != path else "") for archive in archives]
    if table is not None:
        given = _of_table(table, [file for part in found for file in part.files], path)
        return [_with_prompts(part, [given[file] for file in part.files], str(table)) for part in found]
    return [part if part.source else _found(part, prompts) for part in found]


def called(path: str | Path) -> str:
    """What protocols call a folder or zip of images."""
    return slug_of(Path(path).stem)


def prompt_in(name: str) -> str:
    """The prompt in an image's name: what stands before the last underscore and whole number.

    Raises ValueError, saying why, when there is none or it could be another.
    """
    named = NAMED.fullmatch(PurePosixPath(name).stem)
    if named is None or not named[1].strip():
        raise ValueError("its name has no prompt before an underscore and a seed")
    prompt = named[1].strip()
    if NAMED.fullmatch(prompt):
        raise ValueError("its name ends in two numbers, of which the first may be the prompt's")
    if "_" in prompt and " " not in prompt:
        raise ValueError("the underscores in its name may stand for spaces")
    return prompt


def _archives(path: Path, beside: Sequence[str]) -> list[Path]:
    inside = [one for one in path.iterdir() if not one.name.startswith(".")] if path.is_dir() else []
    inside = [one for one in inside if one.name not in beside]
    zips = inside and all(one.suffix.lower() == ".zip" and one.is_file() for one in inside)
    return sorted(inside) if zips else [path]


def _pictures(archive: Path, beside: Sequence[str], prefix: str) -> Pictures:
    if holds_rows(archive):
        rows, source = read_rows(archive), "the rows of the shard"
        names = [image_name(row) for row in rows.index]
        if not names:
            raise ValueError(f"{archive}: there is no image in this shard; put images there")
    else:
        names, source = picture_names(archive, beside), ""
        rows = pd.DataFrame({"name": names}).rename_axis("row")
    return Pictures(archive, names, [f"{prefix}{name}" for name in names], rows, source)


def _with_prompts(part: Pictures, prompts: Sequence[str], source: str) -> Pictures:
    return Pictures(part.archive, part.names, part.files, part.rows.assign(prompt=list(prompts)), source)


def _found(part: Pictures, wanted: bool) -> Pictures:
    """Images with the prompts that lie beside them or stand in their names; without, if none are `wanted`."""
    told, prompts = _of_samples(part.archive), []
    for name in part.names:
        try:
            if told and name not in told:
                raise ValueError(f"{SAMPLES_NAME} does not name it")
            prompts.append(told[name] if told else prompt_in(name))
        except ValueError as error:
            if wanted:
                raise ValueError(f"{part.archive}: the prompt of {name} is not known: {error}; {MEND}") from None
            return part
    return _with_prompts(part, prompts, SAMPLES_NAME if told else "names of images")


def _of_samples(archive: Path) -> dict[str, str]:
    """Prompts by image, as `lethe sample` writes them; none where another program wrote the file, or nobody."""
    try:
        rows = json.loads(read_beside(archive, SAMPLES_NAME) or "{}")["images"]
        found = {row["image"]: row["prompt"] for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if all(isinstance(text, str) for text in found.values()) else {}


def _of_table(table: Path, files: Sequence[str], path: Path) -> dict[str, str]:
    """Prompts by image, of a table with a row for each of `files`, the images in `path`."""
    header, rows = parse_table(table.read_bytes(), table, separator=separator_of(table), fill=True)
    for column in COLUMNS:
        if column not in header:
            told = f"its columns are {', '.join(header)}, and prompts need {' and '.join(COLUMNS)}"
            raise ValueError(f"{table}: there is no column {column!r}; {told}")
    known, found, lines = set(files), {}, {}
    for line, cells in rows:
        file, prompt = (cells[header.index(column)].strip() for column in COLUMNS)
        if file not in known:
            hint = f"; did you mean {close!r}?" if (close := nearest(file, files)) else "; correct or remove the row"
            raise ValueError(f"{table}, line {line}: there is no image {file!r} in {path}{hint}")
        if file in found:
            raise ValueError(f"{table}, line {line}: {file!r} is already in line {lines[file]}; remove one of the two")
        if not prompt:
            raise ValueError(f"{table}, line {line}: prompt is empty; fill it in")
        found[file], lines[file] = prompt, line
    if lacking := [file for file in files if file not in found]:
        raise ValueError(
            f"{table}: {len(lacking)} of the {len(files)} images in {path} have no row, the first "
            f"{lacking[0]!r}; add them"
        )
    return found
