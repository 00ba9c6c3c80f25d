# Measures: computed once per shard, joined into numbers by the tables.


rule clip:
    input:
        unpack(inputs(PLAN.clip)),
    output:
        **outputs(PLAN.clip),
    log:
        PLAN.clip.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, judge_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        **told(PLAN.clip),
    shell:
        COMMAND


rule clip_reference:
    input:
        unpack(inputs(PLAN.clip_reference)),
    output:
        **outputs(PLAN.clip_reference),
    log:
        PLAN.clip_reference.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, judge_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        **told(PLAN.clip_reference),
    shell:
        COMMAND


rule clip_classes:
    input:
        unpack(inputs(PLAN.clip_classes)),
    output:
        **outputs(PLAN.clip_classes),
    log:
        PLAN.clip_classes.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, judge_model),
        runtime=growing(15),
    params:
        **told(PLAN.clip_classes),
    shell:
        COMMAND
