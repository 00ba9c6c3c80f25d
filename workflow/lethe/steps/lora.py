"""Train a concept's LoRA on the base refined for the given concepts."""

import pandas as pd
import torch

from lethe.adapters import save_lora
from lethe.bases import cross_attention_projections, load_pipeline, pick_device
from lethe.closed_form import apply
from lethe.files import read_images, written_whole
from lethe.lora import LoraSettings, encode_images, train_lora
from lethe.methods.mace import MaceSettings, refinement
from lethe.moments import load_concept_moments, load_moment
from lethe.pixels import to_pixels
from lethe.prompts import end_positions, fill, phrase_positions, read_templates
from lethe.steps.arguments import read_arguments, record_of, use_threads
from lethe.text import encode_prompts

if __name__ == "__main__":
    args = read_arguments(
        __doc__, inputs=["images", "masks", "templates"], lists=["moments", "prior"], outputs=["lora", "curve"]
    )
    use_threads(args.threads)
    settings = args.settings
    name, lora = settings.concept["name"], LoraSettings(**settings.lora, seed=settings.seed)
    pipeline = load_pipeline(
        settings.base["model"],
        settings.base["revision"],
        device=pick_device(settings.device),
        precision=settings.precision,
    )
    prior = load_moment(args.prior[0]).matrix if args.prior else None
    moments = [load_concept_moments(path) for path in args.moments]
    transform = refinement(moments, prior, MaceSettings(**settings.mace))
    for module in cross_attention_projections(pipeline.unet).values():
        module.weight.data = apply(module.weight.data, transform, [])
    templates = read_templates(args.templates)[: settings.templates_used]
    prompts = [fill(template, name) for template in templates]
    tokens = torch.zeros(len(prompts), pipeline.tokenizer.model_max_length, dtype=torch.bool)
    for row, (template, prompt) in enumerate(zip(templates, prompts, strict=True)):
        tokens[row, list(phrase_positions(pipeline.tokenizer, template, name))] = True
        if lora.use_pooler:
            tokens[row, list(end_positions(pipeline.tokenizer, prompt))] = True
    state, curve = train_lora(
        pipeline.unet,
        pipeline.scheduler.alphas_cumprod,
        encode_images(pipeline.vae, to_pixels(read_images(args.images)), seed=settings.seed),
        torch.stack([torch.from_numpy(mask > 127) for mask in read_images(args.masks)]),
        torch.cat(list(encode_prompts(pipeline.tokenizer, pipeline.text_encoder, prompts))),
        tokens,
        lora,
    )
    save_lora(args.out_lora.parent, state, record_of("lora", args))
    with written_whole(args.out_curve) as part:
        pd.Series(curve, name="loss").to_csv(part, index_label="step")
