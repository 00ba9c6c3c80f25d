# Measures: computed once per shard, joined into numbers by the tables.


def judge_model(wildcards):
    return config["evaluations"][wildcards.evaluation]["clip"]


@cache
def judge_fingerprint(model):
    return fingerprint(model) if Path(model).is_dir() else model


def judge_settings(evaluation, **values):
    """The evaluation CLIP and its fingerprint."""
    model = config["evaluations"][evaluation]["clip"]
    return encode_argument(
        dict(clip=model, clip_fingerprint=judge_fingerprint(model), device=config["device"]) | values
    )


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
        code=code("clip"),
        settings=lambda wildcards: judge_settings(wildcards.evaluation),
        sampled=lambda wildcards: sampled_by(wildcards.base, wildcards.suite, wildcards.shard),
    shell:
        """
        python -m lethe.steps.clip --settings {params.settings:q} --threads {threads} \
            --shard {input.shard:q} --out-measure {output.measure:q} 2> {log:q}
        """


use rule clip as clip_reference with:
    input:
        shard=lambda wildcards: config["evaluations"][wildcards.evaluation]["reference_images"],
    output:
        measure="results/evaluations/{evaluation}/reference-clip.parquet",
    log:
        "logs/clip_reference/{evaluation}.log",
    params:
        sampled=None,  # these images are given


rule clip_classes:
    input:
        table=lambda wildcards: config["evaluations"][wildcards.evaluation]["classes"]["table"],
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
        code=code("clip_classes"),
        settings=lambda wildcards: judge_settings(
            wildcards.evaluation,
            column=config["evaluations"][wildcards.evaluation]["classes"]["column"],
            class_prompt=config["evaluations"][wildcards.evaluation]["class_prompt"],
        ),
    shell:
        """
        python -m lethe.steps.clip_classes --settings {params.settings:q} --threads {threads} \
            --table {input.table:q} --out-classes {output.classes:q} 2> {log:q}
        """
