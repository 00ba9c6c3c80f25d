"""Measure the texts that images are compared with, such as the prompts of classes."""

import importlib

import pandas as pd

from lethe.inputs.suites import class_names
from lethe.inputs.templates import fill
from lethe.measures.stored import write_measure
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    measure = importlib.import_module(f"lethe.measures.{settings.kind}")
    names = class_names(job.read("table"), settings.column)
    model = measure.load(settings.measure | settings.files, job.device)
    columns = measure.texts(model, [fill(settings.prompt, name) for name in names])
    about = {"evaluation": settings.evaluation, "texts": settings.texts, "measure": settings.name}
    write_measure(job.out["texts"], pd.DataFrame({"class": names}), columns, about)
