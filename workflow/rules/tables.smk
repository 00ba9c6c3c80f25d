# Tables and pictures of a task: one row per method, every number with its n.


rule objects_table:
    input:
        unpack(inputs(PLAN.objects_table)),
    output:
        **outputs(PLAN.objects_table),
    log:
        PLAN.objects_table.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.objects_table),
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
    shell:
        COMMAND
