# Tables and pictures: one row per edit, every number with its n.


rule table:
    input:
        unpack(inputs(PLAN.table)),
    output:
        **outputs(PLAN.table),
    log:
        PLAN.table.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.table),
    message:
        MESSAGE
    shell:
        COMMAND


rule examples:
    input:
        unpack(inputs(PLAN.examples)),
    output:
        **outputs(PLAN.examples),
    log:
        PLAN.examples.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.examples),
    message:
        MESSAGE
    shell:
        COMMAND
