# Each concept on its own, whatever tasks it belongs to.


rule images:
    input:
        unpack(inputs(PLAN.images)),
    output:
        **outputs(PLAN.images),
    log:
        PLAN.images.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        **told(PLAN.images),
    message:
        MESSAGE
    shell:
        COMMAND


rule anchor_images:
    input:
        unpack(inputs(PLAN.anchor_images)),
    output:
        **outputs(PLAN.anchor_images),
    log:
        PLAN.anchor_images.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(15),
        gpu=GPUS,
    params:
        **told(PLAN.anchor_images),
    message:
        MESSAGE
    shell:
        COMMAND


rule masks:
    input:
        unpack(inputs(PLAN.masks)),
    output:
        **outputs(PLAN.masks),
    log:
        PLAN.masks.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(12000 if config["masks"]["segmenter"] == "grounded-sam" else 2000),
        runtime=growing(15),
        gpu=GPUS,
    params:
        **told(PLAN.masks),
    message:
        MESSAGE
    shell:
        COMMAND


rule moments:
    input:
        unpack(inputs(PLAN.moments)),
    output:
        **outputs(PLAN.moments),
    log:
        PLAN.moments.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(15),
    params:
        **told(PLAN.moments),
    message:
        MESSAGE
    shell:
        COMMAND
