"""Embed the images and prompts of a shard, or real images alone, with the evaluation CLIP."""

import pandas as pd

from lethe.bases import pick_device
from lethe.files import image_name, picture_names, read_rows
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.measures.table import write_measure
from lethe.steps.arguments import step, use_threads

if __name__ == "__main__":
    with step("clip", __doc__, inputs=["shard"], outputs=["measure"]) as args:
        use_threads(args.threads)
        real = vars(args.settings).get("real", False)
        if real:
            names = picture_names(args.shard)
            rows = pd.DataFrame({"name": names}).rename_axis("row")
        else:
            rows = read_rows(args.shard)
            names = [image_name(row) for row in rows.index]
        judge = load_judge(**args.settings.clip, device=pick_device(args.settings.device))
        measured = {"image": image_embeddings(judge, args.shard, names)}
        if not real:
            measured["text"] = text_embeddings(judge, list(rows["prompt"]))
        write_measure(args.out_measure, rows, **measured)
