"""Measure every image of a shard, or of a set of real images."""

import importlib

import pandas as pd

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
    try:
        columns = measure.measure(model, read_pictures(archive, names), rows)
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from None
    for count, sentence in getattr(measure, "notes", lambda model, rows: [])(model, rows):
        job.note(count, sentence)
    write_measure(job.out["measure"], rows, columns, about | {"measure": settings.name})
