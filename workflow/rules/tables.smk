# Tables and pictures: one row per edit, every number with its n.


rule table:
    input:
        unpack(inputs(PLAN.table)),
    output:
        **outputs(PLAN.table),
    log:
        PLAN.table.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.table),
    message:
        MESSAGE
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
    message:
        MESSAGE
    shell:
        COMMAND


rule gallery:
    input:
        unpack(inputs(PLAN.gallery)),
    output:
        **outputs(PLAN.gallery),
    log:
        PLAN.gallery.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.gallery),
    message:
        MESSAGE
    shell:
        COMMAND


rule counts:
    input:
        unpack(inputs(PLAN.counts)),
    output:
        **outputs(PLAN.counts),
    log:
        PLAN.counts.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        **told(PLAN.counts),
    message:
        MESSAGE
    shell:
        COMMAND


rule costs:
    input:
        unpack(inputs(PLAN.costs)),
    output:
        **outputs(PLAN.costs),
    log:
        PLAN.costs.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(15),
    params:
        **told(PLAN.costs),
    message:
        MESSAGE
    shell:
        COMMAND


rule beside_published:
    input:
        unpack(inputs(PLAN.beside_published)),
    output:
        **outputs(PLAN.beside_published),
    log:
        PLAN.beside_published.step.log,
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(15),
    params:
        **told(PLAN.beside_published),
    message:
        MESSAGE
    shell:
        COMMAND


# Each table, with its pictures, is a target of its own name.
for name, files in PLAN.targets().items():
    if workflow.is_rule(name):
        if workflow.is_main_process:
            logger.warning(
                f"tables.{name}: {name} is the name of a rule, so it is no target; "
                f"name the table otherwise, or ask for results/tables/{name}.csv"
            )
    else:

        rule:
            name:
                name
            input:
                files,
            localrule: True
            message:
                f"the table {name} and its pictures"
