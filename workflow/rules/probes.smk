# Attacks on edits: probes by concept, what they are compared with, and their table.


rule controls:
    input:
        unpack(inputs(PLAN.controls)),
    output:
        **outputs(PLAN.controls),
    log:
        PLAN.controls.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(3000, base_model),
        runtime=growing(60),
        gpu=GPUS,
    params:
        **told(PLAN.controls),
    message:
        MESSAGE
    shell:
        COMMAND


rule probe:
    input:
        unpack(inputs(PLAN.probe)),
    output:
        **outputs(PLAN.probe),
    log:
        PLAN.probe.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(probe_asks, base_model),
    params:
        **told(PLAN.probe),
    message:
        MESSAGE
    shell:
        COMMAND


rule words:
    input:
        unpack(inputs(PLAN.words)),
    output:
        **outputs(PLAN.words),
    log:
        PLAN.words.step.log,
    conda:
        ENVIRONMENT
    resources:
        **asks(probe_asks, base_model),
    params:
        **told(PLAN.words),
    message:
        MESSAGE
    shell:
        COMMAND


rule attack_table:
    input:
        unpack(inputs(PLAN.attack_table)),
    output:
        **outputs(PLAN.attack_table),
    log:
        PLAN.attack_table.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.attack_table),
    message:
        MESSAGE
    shell:
        COMMAND


rule attack_pictures:
    input:
        unpack(inputs(PLAN.attack_pictures)),
    output:
        **outputs(PLAN.attack_pictures),
    log:
        PLAN.attack_pictures.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.attack_pictures),
    message:
        MESSAGE
    shell:
        COMMAND


rule attack_curves:
    input:
        unpack(inputs(PLAN.attack_curves)),
    output:
        **outputs(PLAN.attack_curves),
    log:
        PLAN.attack_curves.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.attack_curves),
    message:
        MESSAGE
    shell:
        COMMAND
