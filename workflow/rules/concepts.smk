# Each concept on its own, whatever tasks it belongs to: images -> masks, moments, and the LoRA trained on them.


def segmentation(wildcards):
    """How to find a rule's concept, and what the content of the models is that find it."""
    chosen = mask_settings(config["masks"], CONCEPTS[wildcards.concept].kind)
    parts = [part for part in (chosen, *chosen.values()) if isinstance(part, dict) and "model" in part]
    return chosen | dict(content=[model_content(part["model"], part["revision"]) for part in parts])


def mask_sheets():
    """The contact sheet of every concept whose masks a task's method trains with."""
    trained = {
        (task["base"], name)
        for task in config["tasks"].values()
        if "mace" in task["methods"]
        for name in task["concepts"]
    }
    return sorted(f"results/{base}/concepts/{SLUGS[name]}/masks.png" for base, name in trained)


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
        code=code("images"),
        settings=lambda wildcards: concept_settings(wildcards, images=config["images"]),
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
        settings=lambda wildcards: settings(
            wildcards,
            concept=dict(name=CONCEPTS[wildcards.concept].anchor, kind=CONCEPTS[wildcards.concept].kind),
            seed=config["seed"],
            images=config["images"],
        ),


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
        code=code("masks"),
        settings=lambda wildcards: concept_settings(wildcards, fields=("name",), masks=segmentation(wildcards)),
    shell:
        """
        python -m lethe.steps.masks --settings {params.settings:q} --threads {threads} \
            --images {input.images:q} --out-masks {output.masks:q} 2> {log:q}
        """


rule mask_sheet:
    input:
        images=rules.images.output.images,
        masks=rules.masks.output.masks,
    output:
        sheet="results/{base}/concepts/{concept}/masks.png",
    log:
        "logs/mask_sheet/{base}/{concept}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(15),
    params:
        code=code("mask_sheet"),
        settings=lambda wildcards: encode_argument(
            dict(concept=CONCEPTS[wildcards.concept].name, segmenter=segmentation(wildcards)["segmenter"])
        ),
    shell:
        """
        python -m lethe.steps.mask_sheet --settings {params.settings:q} \
            --images {input.images:q} --masks {input.masks:q} --out-sheet {output.sheet:q} 2> {log:q}
        """


rule moments:
    input:
        templates=templates,
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
        code=code("moments"),
        settings=lambda wildcards: concept_settings(
            wildcards, fields=("name", "anchor"), templates_used=config["mace"]["templates_used"]
        ),
    shell:
        """
        python -m lethe.steps.moments --settings {params.settings:q} --threads {threads} \
            --templates {input.templates:q} --out-moments {output.moments:q} 2> {log:q}
        """
