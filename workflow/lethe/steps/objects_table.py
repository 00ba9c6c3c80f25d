"""Join the measures of every method of a task into the objects table and its protocol record."""

import json

import pandas as pd

from lethe import protocols
from lethe.files import written_whole
from lethe.measures.table import read_measures
from lethe.provenance import commit
from lethe.steps.arguments import read_arguments, record_of
from lethe.tables import object_scores, objects_table

ROLES = ("erased", "generality", "kept", "quality")

if __name__ == "__main__":
    args = read_arguments(
        __doc__, inputs=["classes", "reference", "base"], lists=["measures"], outputs=["table", "record"]
    )
    classes, reference = pd.read_parquet(args.classes), pd.read_parquet(args.reference)
    paths, scores = iter(args.measures), {}
    for method in args.settings.methods:
        roles = {role: read_measures([next(paths) for _ in range(args.settings.shards[role])]) for role in ROLES}
        scores[method] = object_scores(**roles, classes=classes, reference=reference, concepts=args.settings.concepts)
    record = record_of(
        "objects_table",
        args,
        commit=commit(),
        base=json.loads(args.base.read_text()),
        details={method: score["details"] for method, score in scores.items()},
        protocols={
            "acc_e, acc_g, acc_s": f"{protocols.ACCURACY}, percent, classes and judge as in settings",
            "class_probability": protocols.CLASS_PROBABILITY,
            "h_o": protocols.H_O,
            "clip_score": protocols.CLIP_SCORE,
            "fid": f"clean-fid's Frechet distance over embeddings of {args.settings.clip}; not an Inception FID",
        },
    )
    with written_whole(args.out_table) as part:
        objects_table(scores).to_csv(part, index=False)
    with written_whole(args.out_record) as part:
        part.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
