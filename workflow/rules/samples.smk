# Suites of rows, sampled in shards from the base as it is and from every edit.


rule sample:
    input:
        unpack(inputs(PLAN.sample)),
    output:
        **outputs(PLAN.sample),
    log:
        PLAN.sample.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(60),
        gpu=GPUS,
    params:
        **told(PLAN.sample),
    message:
        MESSAGE
    shell:
        COMMAND
