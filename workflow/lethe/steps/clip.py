"""Embed the images and prompts of a shard, or real images alone, with the evaluation CLIP."""

import pandas as pd

from lethe.bases.text import count_cut
from lethe.files.shards import image_name, picture_names, read_rows
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.measures.stored import write_measure
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, shard = job.settings, job.read("shard")
    real = vars(settings).get("real", False)
    if real:
        names = picture_names(shard)
        rows = pd.DataFrame({"name": names}).rename_axis("row")
    else:
        rows = read_rows(shard)
        names = [image_name(row) for row in rows.index]
    judge = load_judge(settings.clip["model"], settings.clip["revision"], device=job.device, key="clip.model")
    measured = {"image": image_embeddings(judge, shard, names)}
    if not real:
        prompts = list(rows["prompt"])
        measured["text"] = text_embeddings(judge, prompts)
        window = judge.tokenizer.model_max_length
        told = f"prompts are longer than the {window} tokens that {settings.clip['model']} reads"
        job.note(count_cut([judge.tokenizer], prompts), f"{{}} {told}: CLIP scores are of their beginnings")
    write_measure(job.out["measure"], rows, **measured)
