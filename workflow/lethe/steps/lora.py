"""Train a concept's LoRA on the base refined for the given concepts."""

import pandas as pd

from lethe.bases.schedulers import training_schedule
from lethe.bases.unet import cross_attention_projections, set_projections
from lethe.edits.adapters import save_lora
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.files.shards import read_images, read_rows
from lethe.files.whole import written_whole
from lethe.inputs.templates import read_templates
from lethe.methods.mace.join import RefinementSettings, preserved, refinement, transformed
from lethe.methods.mace.training import LoraSettings, concept_examples, preserved_examples, train_lora
from lethe.steps.job import Job
from lethe.steps.loading import pipeline_of

LESS_MEMORY = "lora.batch of the method"


def run(job: Job) -> None:
    settings, reads, name = job.settings, job.reads, job.settings.concept
    lora = LoraSettings(**settings.lora, seed=settings.seed)
    pipeline = pipeline_of(job)
    alphas, _ = training_schedule(pipeline.scheduler)
    priors = (load_moment(reads[key][0]) if reads[key] else None for key in ("prior", "domain_prior"))
    moments = Loaded(load_concept_moments, reads["moments"])
    kept = preserved(*priors, weight=settings.preserve_weight)
    transform = refinement(
        moments, kept, RefinementSettings(settings.scale_convention, settings.train_preserve_scale, settings.lamb)
    )
    projections = {name: module.weight for name, module in cross_attention_projections(pipeline.unet).items()}
    set_projections(pipeline.unet, transformed(projections, transform))
    templates = read_templates(job.read("templates"))[: settings.templates_used]
    masks = [mask > 127 for mask in read_images(job.read("masks"))]
    concept = concept_examples(pipeline, name, templates, read_images(job.read("images")), masks, lora)
    anchor = None
    for path in reads["anchor_images"]:
        anchor = preserved_examples(pipeline, list(read_rows(path)["prompt"]), read_images(path), lora)
    try:
        state, curve = train_lora(pipeline.unet, alphas, concept, lora, preserved=anchor)
    except FloatingPointError as error:
        raise ValueError(f"the LoRA of {name!r} cannot be trained: {error}") from None
    save_lora(job.out["lora"].parent, state, job.record())
    with written_whole(job.out["curve"]) as part:
        pd.Series(curve, name="loss").to_csv(part, index_label="step")
