# Edits: each method erases a task's concepts together.


rule edit:
    input:
        unpack(inputs(PLAN.edit)),
    output:
        **outputs(PLAN.edit),
    log:
        PLAN.edit.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(PLAN.edit),
    shell:
        COMMAND
