"""Measure every image of a shard, or of a set of real images."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from tqdm import tqdm

from lethe.files.shards import check_images, image_name, picture_names, read_about, read_pictures, read_rows
from lethe.measures.stored import write_measure
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    measure = importlib.import_module(f"lethe.measures.{settings.kind}")
    if "shard" in job.reads:
        archive = job.read("shard")
        rows, about = read_rows(archive), read_about(archive)
        names = [image_name(row) for row in rows.index]
    else:
        archive, about = job.read("images"), {"reference": settings.reference}
        names = picture_names(archive)
        rows = pd.DataFrame({"name": names}).rename_axis("row")
    check_images(archive, names)
    model = measure.load(settings.measure | settings.files, job.device)
    columns = columns_of(measure, model, archive, names, rows)
    for count, sentence in notes_of(measure, model, rows):
        job.note(count, sentence)
    write_measure(job.out["measure"], rows, columns, about | {"measure": settings.name})


def columns_of(
    measure: ModuleType, model: Any, archive: Path, names: Sequence[str], rows: pd.DataFrame
) -> Mapping[str, Sequence]:
    """What a measure's module computes of the images `names` of a zip archive or folder.

    Raises ValueError as the measure and `read_pictures` do, naming the file.
    """
    seen = tqdm(read_pictures(archive, names), str(archive), len(names), disable=None)  # None: where nobody looks on
    try:
        return measure.measure(model, iter(seen), rows)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith(f"{archive}: ") else f"{archive}: {told}") from None


def notes_of(measure: ModuleType, model: Any, rows: pd.DataFrame) -> list[tuple[int, str]]:
    """What a measure's module has to say of rows: counts, and sentences with a place for them."""
    return getattr(measure, "notes", lambda model, rows: [])(model, rows)
