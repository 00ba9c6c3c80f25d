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
        **asks(method_asks, base_model),
    params:
        **told(PLAN.edit),
    message:
        MESSAGE
    shell:
        COMMAND
