# Each concept on its own, whatever tasks it belongs to: images -> masks, moments, and the LoRA trained on them.


rule images:
    input:
        code=code("images"),
    output:
        images="results/{base}/concepts/{concept}/images.zip",
    log:
        "logs/images/{base}/{concept}.log",
    benchmark:
        "logs/images/{base}/{concept}.tsv"
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=1,
    params:
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
    benchmark:
        "logs/anchor_images/{base}/{concept}.tsv"
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
        code=code("masks"),
    output:
        masks="results/{base}/concepts/{concept}/masks.zip",
    log:
        "logs/masks/{base}/{concept}.log",
    benchmark:
        "logs/masks/{base}/{concept}.tsv"
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=1,
    params:
        settings=lambda wildcards: concept_settings(wildcards, masks=config["masks"]),
    shell:
        """
        python -m lethe.steps.masks --settings {params.settings:q} --threads {threads} \
            --images {input.images:q} --out-masks {output.masks:q} 2> {log:q}
        """


rule moments:
    input:
        templates=templates,
        code=code("moments"),
    output:
        moments="results/{base}/concepts/{concept}/moments.safetensors",
    log:
        "logs/moments/{base}/{concept}.log",
    benchmark:
        "logs/moments/{base}/{concept}.tsv"
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: concept_settings(
            wildcards, fields=("name", "anchor"), templates_used=config["mace"]["templates_used"]
        ),
    shell:
        """
        python -m lethe.steps.moments --settings {params.settings:q} --threads {threads} \
            --templates {input.templates:q} --out-moments {output.moments:q} 2> {log:q}
        """
