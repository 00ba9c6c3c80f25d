"""Make the gallery of a task, its samples before and after with the verdict on each, and the list of its edits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

from lethe.files.shards import image_name, read_about, read_images, read_rows
from lethe.files.whole import written_whole
from lethe.pictures.gallery import ROW, concepts_of, judged, lines_of, numbers_of, page
from lethe.records.fingerprints import sha256_of
from lethe.steps.job import Job

NUMBERS = ("value", "n", "low_95", "high_95", "failed", "probability", "type_probability", "score")
FOUND = ["predicted", "right", "probability", "type_probability", "score"]


def run(job: Job) -> None:
    settings = job.settings
    samples = judged(samples_of(job))
    of_task = {name: of_table(path, settings.task) for name in ("numbers", "concepts") for path in job.reads[name]}
    lines = lines_of(samples, image_at)
    sampling = settings.sampling
    parts = page(
        lines,
        task=settings.task,
        erased=settings.concepts,
        base=settings.base,
        methods=[method for method, _ in settings.edits],
        roles=[role for role, _ in settings.roles],
        rows=len(samples.drop_duplicates(ROW)),
        numbers=numbers_of(of_task["numbers"], settings.towards) if "numbers" in of_task else [],
        concepts=concepts_of(of_task["concepts"]) if "concepts" in of_task else [],
        veiled=settings.veiled,
        drawing=f"{sampling['scheduler']}, {sampling['steps']} steps, guidance {sampling['guidance']}",
    )
    edits = pd.DataFrame([said_of(path) for path in job.reads["edits"]])
    with written_whole(job.out["gallery"]) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(parts)
    with written_whole(job.out["edits"]) as part:
        edits.to_csv(part, index=False, lineterminator="\n")


def samples_of(job: Job) -> pd.DataFrame:
    """Every image of the rows that count, as `judged` takes them."""
    roles = {role: (suite, counts) for role, (suite, counts) in job.settings.roles}
    parts = []
    shards = [(path, read_about(path), read_rows(path).reset_index()) for path in job.reads["shards"]]
    for method, edit in job.settings.edits:
        for role, (suite, counts) in roles.items():
            for path, about, rows in shards:
                if (about["edit"], about["suite"]) != (edit, suite):
                    continue
                erased = rows["type"].isin(job.settings.concepts)
                chosen = rows if counts == "all" else rows[erased if counts == "erased" else ~erased]
                told = chosen[["row", "type", "prompt", "evaluation_seed"]]
                where = [f"{path}/{image_name(row)}" for row in told["row"]]
                told = told.assign(method=method, role=role, counts=counts, suite=suite, shard=path.stem, picture=where)
                parts.append(told)
    samples = pd.concat(parts, ignore_index=True)
    for path in job.reads["images"]:
        found = of_table(path, job.settings.task)
        found["right"] = found["right"].map({"True": True, "False": False}).astype(object)
        return samples.merge(found[["method", "role", "picture", *FOUND]], "left", ["method", "role", "picture"])
    return samples.assign(**dict.fromkeys(FOUND))


def of_table(path: Path, task: str) -> pd.DataFrame:
    """The lines of a task in a table of ours, in which a name may be NA."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    found = found[found["task"] == task]
    return found.assign(**{name: pd.to_numeric(found[name]) for name in NUMBERS if name in found})


def image_at(picture: str) -> np.ndarray:
    """An image where `picture` says that it is: the path of its shard, then its name there."""
    shard, _, name = picture.rpartition("/")
    return read_images(Path(shard), [int(Path(name).stem)])[0]


def said_of(edit: Path) -> dict[str, Any]:
    """What an edit is, by its header, for the list of edits."""
    with safe_open(edit, "numpy") as file:  # which loads no tensor
        record: Mapping[str, Any] = json.loads((file.metadata() or {}).get("lethe", "{}"))
    return dict(
        method=edit.stem,
        kind=record["settings"]["kind"],
        form=record["edit"]["form"],
        concepts="; ".join(record["concepts"]),
        edit=str(edit),
        bytes=edit.stat().st_size,
        sha256=sha256_of(edit),
        settings=json.dumps(record["settings"].get("method", {}), sort_keys=True),
    )
