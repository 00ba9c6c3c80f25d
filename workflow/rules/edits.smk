# Edits: each method erases a task's concepts together. Some train an adapter of each concept by itself before.


rule adapter:
    input:
        unpack(inputs(PLAN.adapter)),
    output:
        **outputs(PLAN.adapter),
    log:
        PLAN.adapter.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(adapter_asks, base_model),
    params:
        **told(PLAN.adapter),
    message:
        MESSAGE
    shell:
        COMMAND


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
