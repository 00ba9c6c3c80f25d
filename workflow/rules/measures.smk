# Measures: computed once per shard and model, joined into numbers by the tables.


rule measure:
    input:
        unpack(inputs(PLAN.measure)),
    output:
        **outputs(PLAN.measure),
    log:
        PLAN.measure.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(measure_asks, measure_model),
    params:
        **told(PLAN.measure),
    message:
        MESSAGE
    shell:
        COMMAND


rule reference:
    input:
        unpack(inputs(PLAN.reference)),
    output:
        **outputs(PLAN.reference),
    log:
        PLAN.reference.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(measure_asks, measure_model),
    params:
        **told(PLAN.reference),
    message:
        MESSAGE
    shell:
        COMMAND


rule texts:
    input:
        unpack(inputs(PLAN.texts)),
    output:
        **outputs(PLAN.texts),
    log:
        PLAN.texts.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(measure_asks, measure_model),
    params:
        **told(PLAN.texts),
    message:
        MESSAGE
    shell:
        COMMAND
