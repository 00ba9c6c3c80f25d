# MACE's LoRAs, one for each concept, and what their training looked like.


rule lora:
    input:
        unpack(inputs(PLAN.lora)),
    output:
        **outputs(PLAN.lora),
    log:
        PLAN.lora.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(3000, base_model),
        runtime=growing(30),
        gpu=GPUS,
    params:
        **told(PLAN.lora),
    message:
        MESSAGE
    shell:
        COMMAND


rule task_lora:
    input:
        unpack(inputs(PLAN.task_lora)),
    output:
        **outputs(PLAN.task_lora),
    log:
        PLAN.task_lora.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(3000, base_model),
        runtime=growing(30),
        gpu=GPUS,
    params:
        **told(PLAN.task_lora),
    message:
        MESSAGE
    shell:
        COMMAND


rule losses:
    input:
        unpack(inputs(PLAN.losses)),
    output:
        **outputs(PLAN.losses),
    log:
        PLAN.losses.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.losses),
    message:
        MESSAGE
    shell:
        COMMAND


rule mask_sheets:
    input:
        unpack(inputs(PLAN.mask_sheets)),
    output:
        **outputs(PLAN.mask_sheets),
    log:
        PLAN.mask_sheets.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        **told(PLAN.mask_sheets),
    message:
        MESSAGE
    shell:
        COMMAND
