"""Embed the class prompts that CLIP accuracy compares images with."""

import pandas as pd

from lethe.inputs.suites import class_names
from lethe.inputs.templates import fill
from lethe.measures.clip import load_judge, text_embeddings
from lethe.measures.stored import write_measure
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    names = class_names(job.read("table"), settings.column)
    judge = load_judge(settings.clip["model"], settings.clip["revision"], device=job.device, key="clip.model")
    texts = text_embeddings(judge, [fill(settings.class_prompt, name) for name in names])
    write_measure(job.out["classes"], pd.DataFrame({"class": names}), text=texts)
