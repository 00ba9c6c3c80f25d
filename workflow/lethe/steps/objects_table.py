"""Join the measures of every method of a task into the objects table and its protocol record."""

import json

import pandas as pd

from lethe.config.checks import ROLES
from lethe.files.whole import written_whole
from lethe.measures.stored import read_measures
from lethe.records.code import commit
from lethe.records.records import name_of
from lethe.steps.job import Job
from lethe.tables import protocols
from lethe.tables.objects import SOURCES, erasure_notes, object_scores, objects_table


def run(job: Job) -> None:
    settings = job.settings
    paths, counts = iter(job.reads["measures"]), settings.shards
    measures = {
        method: {role: [next(paths) for _ in range(counts[role])] for role in ROLES if role in counts}
        for method in settings.methods
    }
    classes, reference = pd.read_parquet(job.read("classes")), pd.read_parquet(job.read("reference"))
    scores = {}
    for method, parts in measures.items():
        roles = {"generality": None} | {role: read_measures(shards) for role, shards in parts.items()}
        scores[method] = object_scores(**roles, classes=classes, reference=reference, concepts=settings.concepts)
    table = objects_table(scores)
    said = erasure_notes(job.out["table"].stem, scores)
    for sentence in said:
        job.note(1, sentence)
    job.recorded["cells"] = {
        "columns": {column: SOURCES[column] for column in table.columns[1:]},
        "rows": {
            method: {role: [name_of(path) for path in shards] for role, shards in parts.items()}
            for method, parts in measures.items()
        },
        "every_row": {"classes": [name_of(job.read("classes"))], "reference": [name_of(job.read("reference"))]},
    }
    judge = settings.clip["model"]
    accuracies = ", ".join(name for name in ("acc_e", "acc_g", "acc_s") if name in table)
    record = job.record(
        commit=commit(),
        base=json.loads(job.read("base").read_text()),
        notes=said,
        details={method: score["details"] for method, score in scores.items()},
        protocols={
            accuracies: f"{protocols.ACCURACY}, percent, classes and judge as in settings",
            "class_probability": protocols.CLASS_PROBABILITY,
            **({"h_o": protocols.H_O} if "h_o" in table else {"h_c": protocols.H_C}),
            "clip_score": protocols.CLIP_SCORE,
            "fid": f"clean-fid's Frechet distance over embeddings of {judge}; not an Inception FID",
        },
    )
    with written_whole(job.out["table"]) as part:
        table.to_csv(part, index=False)
    job.write_json("record", record)
