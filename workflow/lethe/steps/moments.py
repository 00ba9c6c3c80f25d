"""Compute a concept's second moments of text embeddings."""

from lethe.erasure.moments import concept_moments, save_concept_moments
from lethe.inputs.templates import read_templates
from lethe.steps.job import record_of, step, use_threads
from lethe.steps.loading import text_of

if __name__ == "__main__":
    with step("moments", __doc__, inputs=["templates"], outputs=["moments"]) as args:
        use_threads(args.threads)
        settings = args.settings
        templates = read_templates(args.templates)[: settings.templates_used]
        moments = concept_moments(text_of(settings), settings.concept["name"], settings.concept["anchor"], templates)
        save_concept_moments(args.out_moments, moments, record_of("moments", args))
