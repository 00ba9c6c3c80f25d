# MACE: a LoRA per concept, then the join that refines and fuses.

REFINEMENT = ("scale_convention", "train_preserve_scale", "lamb")
LORA_SETTINGS = dict(
    templates_used=config["mace"]["templates_used"],
    lora=config["mace"]["lora"],
    preserve_weight=config["mace"]["preserve_weight"],
    refinement={key: config["mace"][key] for key in REFINEMENT},
)


def mace_prior(key):
    """The file of the prior that a key of `mace` names, if any."""
    name = config["mace"][key]
    return lambda wildcards: [] if name is None else f"results/priors/{TEXTS[wildcards.base]}/{name}.safetensors"


def anchor_images(wildcards):
    """Images of the concept's anchor, if the loss is to preserve them."""
    wanted = config["mace"]["lora"]["preservation_weight"] > 0
    return f"results/{wildcards.base}/concepts/{wildcards.concept}/anchor_images.zip" if wanted else []


def task_moments(wildcards):
    """Moments of every concept of a task."""
    return [f"results/{wildcards.base}/concepts/{slug}/moments.safetensors" for slug in task_slugs(wildcards)]


def task_loras(wildcards):
    """LoRAs of a task's concepts: shared by all tasks, or trained on the base refined for this one."""
    folder = f"results/{wildcards.base}/concepts/{{}}/lora"
    if config["mace"]["lora_base"] == "task":
        folder = f"results/{wildcards.base}/edits/{wildcards.task}/loras/{{}}"
    return [f"{folder.format(slug)}/pytorch_lora_weights.safetensors" for slug in task_slugs(wildcards)]


rule lora:
    input:
        images=rules.images.output.images,
        masks=rules.masks.output.masks,
        anchor_images=anchor_images,
        moments=rules.moments.output.moments,
        prior=mace_prior("prior"),
        domain_prior=mace_prior("domain_prior"),
        templates=templates,
    output:
        lora="results/{base}/concepts/{concept}/lora/pytorch_lora_weights.safetensors",
        curve="results/{base}/concepts/{concept}/lora/loss.csv",
    log:
        "logs/lora/{base}/{concept}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(3000, base_model),
        runtime=growing(30),
        gpu=GPUS,
    params:
        code=code("lora"),
        settings=lambda wildcards: concept_settings(wildcards, **LORA_SETTINGS),
    shell:
        """
        python -m lethe.steps.lora --settings {params.settings:q} --threads {threads} \
            --images {input.images:q} --masks {input.masks:q} --anchor-images {input.anchor_images:q} \
            --templates {input.templates:q} --moments {input.moments:q} \
            --prior {input.prior:q} --domain-prior {input.domain_prior:q} \
            --out-lora {output.lora:q} --out-curve {output.curve:q} 2> {log:q}
        """


use rule lora as task_lora with:
    input:
        images=rules.images.output.images,
        masks=rules.masks.output.masks,
        anchor_images=anchor_images,
        moments=task_moments,
        prior=mace_prior("prior"),
        domain_prior=mace_prior("domain_prior"),
        templates=templates,
    output:
        lora="results/{base}/edits/{task}/loras/{concept}/pytorch_lora_weights.safetensors",
        curve="results/{base}/edits/{task}/loras/{concept}/loss.csv",
    log:
        "logs/task_lora/{base}/{task}/{concept}.log",


rule mace:
    input:
        moments=task_moments,
        loras=task_loras,
        prior=mace_prior("prior"),
        domain_prior=mace_prior("domain_prior"),
    output:
        edit="results/{base}/edits/{task}/mace.safetensors",
    log:
        "logs/mace/{base}/{task}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code("mace"),
        settings=lambda wildcards: settings(
            wildcards,
            preserve_weight=config["mace"]["preserve_weight"],
            mace={key: config["mace"][key] for key in (*REFINEMENT, "fuse_preserve_scale")},
            edit_form=config["mace"]["edit_form"],
            task=wildcards.task,
            concepts=[CONCEPTS[slug].name for slug in task_slugs(wildcards)],
        ),
    shell:
        """
        python -m lethe.steps.mace --settings {params.settings:q} --threads {threads} \
            --moments {input.moments:q} --loras {input.loras:q} \
            --prior {input.prior:q} --domain-prior {input.domain_prior:q} --out-edit {output.edit:q} 2> {log:q}
        """


rule losses:
    input:
        curves=lambda wildcards: [f"{Path(lora).parent}/loss.csv" for lora in task_loras(wildcards)],
    output:
        figure="results/{base}/edits/{task}/losses.png",
    log:
        "logs/losses/{base}/{task}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        code=code("losses"),
        settings=lambda wildcards: encode_argument(
            dict(concepts=[CONCEPTS[slug].name for slug in task_slugs(wildcards)])
        ),
    shell:
        """
        python -m lethe.steps.losses --settings {params.settings:q} --curves {input.curves:q} \
            --out-figure {output.figure:q} 2> {log:q}
        """
