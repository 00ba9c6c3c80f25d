"""Embed the class prompts that CLIP accuracy compares images with."""

import pandas as pd

from lethe.bases.devices import pick_device
from lethe.inputs.suites import class_names
from lethe.inputs.templates import fill
from lethe.measures.clip import load_judge, text_embeddings
from lethe.measures.stored import write_measure
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("clip_classes", __doc__, inputs=["table"], outputs=["classes"]) as args:
        use_threads(args.threads)
        settings = args.settings
        names = class_names(args.table, settings.column)
        judge = load_judge(
            settings.clip["model"], settings.clip["revision"], device=pick_device(settings.device), key="clip.model"
        )
        texts = text_embeddings(judge, [fill(settings.class_prompt, name) for name in names])
        write_measure(args.out_classes, pd.DataFrame({"class": names}), text=texts)
