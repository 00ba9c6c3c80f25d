"""Compute a concept's second moments of text embeddings."""

from lethe.erasure.moments import concept_moments, save_concept_moments
from lethe.inputs.templates import read_templates
from lethe.steps.job import Job
from lethe.steps.loading import text_of


def run(job: Job) -> None:
    settings = job.settings
    templates = read_templates(job.read("templates"))[: settings.templates_used]
    moments = concept_moments(text_of(job), settings.concept, settings.anchor, templates)
    save_concept_moments(job.out["moments"], moments, job.record())
