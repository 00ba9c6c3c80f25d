"""Embed the images and prompts of a shard, or real images alone, with the evaluation CLIP."""

import pandas as pd

from lethe.bases.devices import pick_device
from lethe.bases.text import count_cut
from lethe.files.shards import image_name, picture_names, read_rows
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.measures.stored import write_measure
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("clip", __doc__, inputs=["shard"], outputs=["measure"]) as args:
        use_threads(args.threads)
        settings = args.settings
        real = vars(settings).get("real", False)
        if real:
            names = picture_names(args.shard)
            rows = pd.DataFrame({"name": names}).rename_axis("row")
        else:
            rows = read_rows(args.shard)
            names = [image_name(row) for row in rows.index]
        judge = load_judge(
            settings.clip["model"], settings.clip["revision"], device=pick_device(settings.device), key="clip.model"
        )
        measured = {"image": image_embeddings(judge, args.shard, names)}
        if not real:
            prompts = list(rows["prompt"])
            measured["text"] = text_embeddings(judge, prompts)
            if cut := count_cut([judge.tokenizer], prompts):
                window = judge.tokenizer.model_max_length
                told = f"prompts are longer than the {window} tokens that {settings.clip['model']} reads"
                args.also_recorded["notes"] = [(cut, f"{{}} {told}: CLIP scores are of their beginnings")]
        write_measure(args.out_measure, rows, **measured)
