"""Join the measures of every method of a task into the objects table and its protocol record."""

import json

import pandas as pd

from lethe.config.checks import ROLES
from lethe.files.whole import written_whole
from lethe.measures.stored import read_measures
from lethe.records.code import commit
from lethe.records.records import name_of
from lethe.steps.job import record_of, step
from lethe.tables import protocols
from lethe.tables.objects import SOURCES, erasure_notes, object_scores, objects_table

if __name__ == "__main__":
    with step(
        "objects_table",
        __doc__,
        inputs=["classes", "reference", "base"],
        lists=["measures"],
        outputs=["table", "record"],
    ) as args:
        paths, counts = iter(args.measures), args.settings.shards
        measures = {
            method: {role: [next(paths) for _ in range(counts[role])] for role in ROLES if role in counts}
            for method in args.settings.methods
        }
        classes, reference = pd.read_parquet(args.classes), pd.read_parquet(args.reference)
        scores = {}
        for method, parts in measures.items():
            roles = {"generality": None} | {role: read_measures(shards) for role, shards in parts.items()}
            scores[method] = object_scores(
                **roles, classes=classes, reference=reference, concepts=args.settings.concepts
            )
        table = objects_table(scores)
        said = erasure_notes(args.out_table.stem, scores)
        args.also_recorded["notes"] = [(1, sentence) for sentence in said]
        args.also_recorded["cells"] = {
            "columns": {column: SOURCES[column] for column in table.columns[1:]},
            "rows": {
                method: {role: [name_of(path) for path in shards] for role, shards in parts.items()}
                for method, parts in measures.items()
            },
            "every_row": {"classes": [name_of(args.classes)], "reference": [name_of(args.reference)]},
        }
        judge = args.settings.clip["model"]
        accuracies = ", ".join(name for name in ("acc_e", "acc_g", "acc_s") if name in table)
        record = record_of(
            "objects_table",
            args,
            commit=commit(),
            base=json.loads(args.base.read_text()),
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
        with written_whole(args.out_table) as part:
            table.to_csv(part, index=False)
        with written_whole(args.out_record) as part:
            part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
