# Suites of rows, sampled in shards from the base as it is and from every edit.


rule suite:
    input:
        unpack(inputs(PLAN.suite)),
    output:
        **outputs(PLAN.suite),
    log:
        PLAN.suite.step.log,
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **told(PLAN.suite),
    message:
        MESSAGE
    shell:
        COMMAND


rule i2p:
    input:
        unpack(inputs(PLAN.i2p)),
    output:
        **outputs(PLAN.i2p),
    log:
        PLAN.i2p.step.log,
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **told(PLAN.i2p),
    message:
        MESSAGE
    shell:
        COMMAND


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
