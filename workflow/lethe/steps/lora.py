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
from lethe.steps.job import record_of, step, use_threads
from lethe.steps.loading import pipeline_of

if __name__ == "__main__":
    with step(
        "lora",
        __doc__,
        inputs=["images", "masks", "templates"],
        lists=["anchor-images", "moments", "prior", "domain-prior"],
        outputs=["lora", "curve"],
        less="mace.lora.batch",
    ) as args:
        use_threads(args.threads)
        settings = args.settings
        name, lora = settings.concept["name"], LoraSettings(**settings.lora, seed=settings.seed)
        pipeline = pipeline_of(settings)
        alphas, _ = training_schedule(pipeline.scheduler)
        priors = (load_moment(paths[0]) if paths else None for paths in (args.prior, args.domain_prior))
        moments = Loaded(load_concept_moments, args.moments)
        kept = preserved(*priors, weight=settings.preserve_weight)
        transform = refinement(moments, kept, RefinementSettings(**settings.refinement))
        projections = {name: module.weight for name, module in cross_attention_projections(pipeline.unet).items()}
        set_projections(pipeline.unet, transformed(projections, transform))
        templates = read_templates(args.templates)[: settings.templates_used]
        masks = [mask > 127 for mask in read_images(args.masks)]
        concept = concept_examples(pipeline, name, templates, read_images(args.images), masks, lora)
        anchor = None
        for path in args.anchor_images:
            anchor = preserved_examples(pipeline, list(read_rows(path)["prompt"]), read_images(path), lora)
        try:
            state, curve = train_lora(pipeline.unet, alphas, concept, lora, preserved=anchor)
        except FloatingPointError as error:
            raise ValueError(f"the LoRA of {name!r} cannot be trained: {error}") from None
        save_lora(args.out_lora.parent, state, record_of("lora", args))
        with written_whole(args.out_curve) as part:
            pd.Series(curve, name="loss").to_csv(part, index_label="step")
