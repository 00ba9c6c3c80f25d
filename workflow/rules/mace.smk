# MACE: a LoRA per concept, then the join that refines and fuses.

REFINEMENT = ("scale_convention", "train_preserve_scale", "lamb")
LORA_SETTINGS = dict(
    seed=config["seed"],
    templates_used=config["mace"]["templates_used"],
    lora=config["mace"]["lora"],
    preserve_weight=config["mace"]["preserve_weight"],
    refinement={key: config["mace"][key] for key in REFINEMENT},
)
PRESERVED = config["mace"]["lora"]["preservation_weight"] > 0  # whether LoRAs keep how images of the anchor look


def mace_prior(key):
    """The file of the prior that a key of `mace` names, if any."""
    name = config["mace"][key]
    return lambda wildcards: [] if name is None else f"results/priors/{text_of(wildcards.base)}/{name}.safetensors"


def anchor_images(wildcards):
    """Images of the concept's anchor, if the loss is to preserve them."""
    return f"results/{wildcards.base}/concepts/{wildcards.concept}/anchor_images.zip" if PRESERVED else []


def of_task(name):
    """The file of that name of every concept of a task, as an input."""
    return of(lambda base, task: [f"results/{base}/concepts/{slug}/{name}" for slug in task_slugs(task)])


def task_loras(wildcards):
    """LoRAs of a task's concepts: shared by all tasks, or trained on the base refined for this one."""
    folder = f"results/{wildcards.base}/concepts/{{}}/lora"
    if config["mace"]["lora_base"] == "task":
        folder = f"results/{wildcards.base}/edits/{wildcards.task}/loras/{{}}"
    return [f"{folder.format(slug)}/pytorch_lora_weights.safetensors" for slug in task_slugs(wildcards.task)]


@cache
def mace_priors_made_by(base):
    names = (config["mace"][key] for key in ("prior", "domain_prior"))
    return [name and prior_made_by(text_of(base), name) for name in names]


@cache
def task_moments_made_by(base, task):
    return [moments_made_by(base, slug) for slug in task_slugs(task)]


@cache
def lora_settings(base, concept):
    return concept_settings(base, concept, **LORA_SETTINGS)


@cache
def pictures_made_by(base, concept):
    """How the images that a LoRA learns from, their masks and their prompts are made."""
    pictures = [images_made_by(base, concept), masks_made_by(base, concept)]
    preserved = [anchor_images_made_by(base, concept)] if PRESERVED else []
    return [*pictures, *preserved, used_templates(concept)]


@cache
def lora_made_by(base, concept):
    before = pictures_made_by(base, concept), moments_made_by(base, concept), mace_priors_made_by(base)
    return made_by("lora", lora_settings(base, concept), *before)


@cache
def task_lora_made_by(base, task, concept):
    before = pictures_made_by(base, concept), task_moments_made_by(base, task), mace_priors_made_by(base)
    return made_by("lora", lora_settings(base, concept), *before)


@cache
def task_loras_made_by(base, task):
    if config["mace"]["lora_base"] == "task":
        return [task_lora_made_by(base, task, slug) for slug in task_slugs(task)]
    return [lora_made_by(base, slug) for slug in task_slugs(task)]


@cache
def mace_settings(base, task):
    return settings(
        base,
        preserve_weight=config["mace"]["preserve_weight"],
        mace={key: config["mace"][key] for key in (*REFINEMENT, "fuse_preserve_scale")},
        edit_form=config["mace"]["edit_form"],
        task=task,
        concepts=[CONCEPTS[slug].name for slug in task_slugs(task)],
    )


@cache
def mace_made_by(base, task):
    before = task_moments_made_by(base, task), task_loras_made_by(base, task), mace_priors_made_by(base)
    return made_by("mace", mace_settings(base, task), *before)


def losses_settings(task):
    return Argument(dict(concepts=[CONCEPTS[slug].name for slug in task_slugs(task)]))


@cache
def losses_made_by(base, task):
    return made_by("losses", losses_settings(task), task_loras_made_by(base, task))


def mask_sheets_settings(task):
    slugs = task_slugs(task)
    names, segmenters = [CONCEPTS[slug].name for slug in slugs], [segmentation(slug)["segmenter"] for slug in slugs]
    return Argument(dict(concepts=names, segmenters=segmenters))


@cache
def mask_sheets_made_by(base, task):
    before = [(images_made_by(base, slug), masks_made_by(base, slug)) for slug in task_slugs(task)]
    return made_by("mask_sheets", mask_sheets_settings(task), before)


rule lora:
    input:
        images=rules.images.output.images,
        masks=rules.masks.output.masks,
        anchor_images=anchor_images,
        moments=rules.moments.output.moments,
        prior=mace_prior("prior"),
        domain_prior=mace_prior("domain_prior"),
        templates=of(given_templates),
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
        settings=told(lora_settings, lora_made_by),
        made_by=of(lora_made_by),
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
        moments=of_task("moments.safetensors"),
        prior=mace_prior("prior"),
        domain_prior=mace_prior("domain_prior"),
        templates=of(given_templates),
    output:
        lora="results/{base}/edits/{task}/loras/{concept}/pytorch_lora_weights.safetensors",
        curve="results/{base}/edits/{task}/loras/{concept}/loss.csv",
    log:
        "logs/task_lora/{base}/{task}/{concept}.log",
    params:
        settings=told(lora_settings, task_lora_made_by),
        made_by=of(task_lora_made_by),


rule mace:
    input:
        moments=of_task("moments.safetensors"),
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
        settings=told(mace_settings, mace_made_by),
        made_by=of(mace_made_by),
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
        settings=told(losses_settings, losses_made_by),
        made_by=of(losses_made_by),
    shell:
        """
        python -m lethe.steps.losses --settings {params.settings:q} --curves {input.curves:q} \
            --out-figure {output.figure:q} 2> {log:q}
        """


rule mask_sheets:
    input:
        images=of_task("images.zip"),
        masks=of_task("masks.zip"),
    output:
        sheets=directory("results/{base}/edits/{task}/masks"),
    log:
        "logs/mask_sheets/{base}/{task}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        settings=told(mask_sheets_settings, mask_sheets_made_by),
        made_by=of(mask_sheets_made_by),
    shell:
        """
        python -m lethe.steps.mask_sheets --settings {params.settings:q} \
            --images {input.images:q} --masks {input.masks:q} --out-sheets {output.sheets:q} 2> {log:q}
        """
