# Each concept on its own, whatever tasks it belongs to: images -> masks, moments, and the LoRA trained on them.


@cache
def images_settings(base, concept):
    return concept_settings(base, concept, seed=config["seed"], images=config["images"])


@cache
def images_made_by(base, concept):
    return made_by("images", images_settings(base, concept))


@cache
def anchor_images_settings(base, concept):
    anchor = dict(name=CONCEPTS[concept].anchor, kind=CONCEPTS[concept].kind)
    return settings(base, concept=anchor, seed=config["seed"], images=config["images"])


@cache
def anchor_images_made_by(base, concept):
    return made_by("images", anchor_images_settings(base, concept))


def segmentation(concept):
    """How to find a concept, and what the content of the models is that find it."""
    chosen = mask_settings(config["masks"], CONCEPTS[concept].kind)
    at = f"masks.{chosen['segmenter']}"
    parts = {key: part for key, part in chosen.items() if isinstance(part, dict) and "model" in part}
    models = {name: part | identified(**part, key=f"{at}.{name}.model") for name, part in parts.items()}
    own = identified(chosen["model"], chosen["revision"], key=f"{at}.model") if "model" in chosen else {}
    return chosen | models | own


@cache
def masks_settings(base, concept):
    return concept_settings(base, concept, fields=("name",), masks=segmentation(concept))


@cache
def masks_made_by(base, concept):
    return made_by("masks", masks_settings(base, concept), images_made_by(base, concept))


@cache
def moments_settings(base, concept):
    return concept_settings(base, concept, fields=("name", "anchor"), templates_used=config["mace"]["templates_used"])


@cache
def moments_made_by(base, concept):
    return made_by("moments", moments_settings(base, concept), used_templates(concept))


rule images:
    output:
        images="results/{base}/concepts/{concept}/images.zip",
    log:
        "logs/images/{base}/{concept}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        settings=told(images_settings, images_made_by),
        made_by=of(images_made_by),
    shell:
        """
        python -m lethe.steps.images --settings {params.settings:q} --threads {threads} \
            --out-images {output.images:q} 2> {log:q}
        """


use rule images as anchor_images with:
    output:
        images="results/{base}/concepts/{concept}/anchor_images.zip",
    log:
        "logs/anchor_images/{base}/{concept}.log",
    params:
        settings=told(anchor_images_settings, anchor_images_made_by),
        made_by=of(anchor_images_made_by),


rule masks:
    input:
        images=rules.images.output.images,
    output:
        masks="results/{base}/concepts/{concept}/masks.zip",
    log:
        "logs/masks/{base}/{concept}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(12000 if config["masks"]["segmenter"] == "grounded-sam" else 2000),
        runtime=growing(15),
        gpu=GPUS,
    params:
        settings=told(masks_settings, masks_made_by),
        made_by=of(masks_made_by),
    shell:
        """
        python -m lethe.steps.masks --settings {params.settings:q} --threads {threads} \
            --images {input.images:q} --out-masks {output.masks:q} 2> {log:q}
        """


rule moments:
    input:
        templates=of(given_templates),
    output:
        moments="results/{base}/concepts/{concept}/moments.safetensors",
    log:
        "logs/moments/{base}/{concept}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(15),
    params:
        settings=told(moments_settings, moments_made_by),
        made_by=of(moments_made_by),
    shell:
        """
        python -m lethe.steps.moments --settings {params.settings:q} --threads {threads} \
            --templates {input.templates:q} --out-moments {output.moments:q} 2> {log:q}
        """
