"""Train a concept's LoRA on the base refined for the given concepts."""

import pandas as pd
import torch

from lethe.adapters import save_lora
from lethe.bases import cross_attention_projections, set_projections, text_encoders
from lethe.files import Loaded, read_images, written_whole
from lethe.lora import LoraSettings, attended_tokens, encode_images, train_lora
from lethe.methods.mace import RefinementSettings, preserved, refinement, transformed
from lethe.moments import load_concept_moments, load_moment
from lethe.pixels import to_pixels
from lethe.prompts import fill, read_templates
from lethe.steps.arguments import read_arguments, record_of, use_threads
from lethe.steps.loading import pipeline_of
from lethe.text import added_conditions, encode_prompts

if __name__ == "__main__":
    args = read_arguments(
        __doc__,
        inputs=["images", "masks", "templates"],
        lists=["moments", "prior", "domain-prior"],
        outputs=["lora", "curve"],
    )
    use_threads(args.threads)
    settings = args.settings
    name, lora = settings.concept["name"], LoraSettings(**settings.lora, seed=settings.seed)
    pipeline = pipeline_of(settings)
    text = text_encoders(pipeline)
    priors = (load_moment(paths[0]) if paths else None for paths in (args.prior, args.domain_prior))
    moments = Loaded(load_concept_moments, args.moments)
    kept = preserved(*priors, weight=settings.preserve_weight)
    transform = refinement(moments, kept, RefinementSettings(**settings.refinement))
    projections = {name: module.weight for name, module in cross_attention_projections(pipeline.unet).items()}
    set_projections(pipeline.unet, transformed(projections, transform))
    templates = read_templates(args.templates)[: settings.templates_used]
    prompts = [fill(template, name) for template in templates]
    images = read_images(args.images)
    state, curve = train_lora(
        pipeline.unet,
        pipeline.scheduler.alphas_cumprod,
        encode_images(pipeline.vae, to_pixels(images), seed=settings.seed),
        torch.stack([torch.from_numpy(mask > 127) for mask in read_images(args.masks)]),
        torch.cat(list(encode_prompts(text, prompts))),
        attended_tokens(text.tokenizer, templates, name, use_pooler=lora.use_pooler),
        lora,
        added=added_conditions(text, prompts, images[0].shape[:2]),
    )
    save_lora(args.out_lora.parent, state, record_of("lora", args))
    with written_whole(args.out_curve) as part:
        pd.Series(curve, name="loss").to_csv(part, index_label="step")
