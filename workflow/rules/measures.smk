# Measures: computed once per shard, joined into numbers by the tables.


def judge_model(wildcards):
    return config["evaluations"][wildcards.evaluation]["clip"]["model"]


@cache
def judge(evaluation):
    """What identifies the evaluation CLIP."""
    return identified(**config["evaluations"][evaluation]["clip"], key=f"evaluations.{evaluation}.clip.model")


@cache
def judge_settings(evaluation, **values):
    """The evaluation CLIP and what its content is."""
    common = dict(clip=judge(evaluation), device=config["device"])
    return Argument(common | values)


@cache
def clip_made_by(base, edit, suite, shard, evaluation):
    return made_by("clip", judge_settings(evaluation), sample_made_by(base, edit, suite, shard))


def reference_images(wildcards):
    return ancient(config["evaluations"][wildcards.evaluation]["reference_images"])


@cache
def clip_reference_settings(evaluation):
    return judge_settings(evaluation, real=True)


@cache
def clip_reference_made_by(evaluation):
    images = content(config["evaluations"][evaluation]["reference_images"])
    return made_by("clip", clip_reference_settings(evaluation), images)


@cache
def clip_classes_settings(evaluation):
    chosen = config["evaluations"][evaluation]
    return judge_settings(evaluation, column=chosen["classes"]["column"], class_prompt=chosen["class_prompt"])


@cache
def clip_classes_made_by(evaluation):
    return made_by("clip_classes", clip_classes_settings(evaluation), CLASSES[evaluation])


rule clip:
    input:
        shard="results/{base}/samples/{edit}/{suite}/{shard}.zip",
    output:
        measure="results/{base}/measures/{edit}/{suite}/{shard}.{evaluation}-clip.parquet",
    log:
        "logs/clip/{base}/{edit}/{suite}/{shard}.{evaluation}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000, judge_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        settings=told(judge_settings, clip_made_by),
        made_by=of(clip_made_by),
    shell:
        """
        python -m lethe.steps.clip --settings {params.settings:q} --threads {threads} \
            --shard {input.shard:q} --out-measure {output.measure:q} 2> {log:q}
        """


use rule clip as clip_reference with:
    input:
        shard=reference_images,
    output:
        measure="results/evaluations/{evaluation}/reference-clip.parquet",
    log:
        "logs/clip_reference/{evaluation}.log",
    params:
        settings=told(clip_reference_settings, clip_reference_made_by),
        made_by=of(clip_reference_made_by),


rule clip_classes:
    input:
        table=lambda wildcards: ancient(config["evaluations"][wildcards.evaluation]["classes"]["table"]),
    output:
        classes="results/evaluations/{evaluation}/classes-clip.parquet",
    log:
        "logs/clip_classes/{evaluation}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000, judge_model),
        runtime=growing(15),
    params:
        settings=told(clip_classes_settings, clip_classes_made_by),
        made_by=of(clip_classes_made_by),
    shell:
        """
        python -m lethe.steps.clip_classes --settings {params.settings:q} --threads {threads} \
            --table {input.table:q} --out-classes {output.classes:q} 2> {log:q}
        """
