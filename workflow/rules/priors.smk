# Second moments of text that edits preserve; one small file per prior and text encoder, shared by bases that share it.


rule coco_annotations:
    input:
        unpack(inputs(PLAN.coco_annotations)),
    output:
        **outputs(PLAN.coco_annotations),
    log:
        PLAN.coco_annotations.step.log,
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **told(PLAN.coco_annotations),
    message:
        MESSAGE
    shell:
        COMMAND


rule prior:
    input:
        unpack(inputs(PLAN.prior)),
    output:
        **outputs(PLAN.prior),
    log:
        PLAN.prior.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=GPUS,
    params:
        **told(PLAN.prior),
    message:
        MESSAGE
    shell:
        COMMAND
