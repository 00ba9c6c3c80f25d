# What a base is: recorded once, so that every table can name it.


rule base:
    input:
        unpack(inputs(PLAN.base)),
    output:
        **outputs(PLAN.base),
    log:
        PLAN.base.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(15),
    params:
        **told(PLAN.base),
    message:
        MESSAGE
    shell:
        COMMAND
