# What a base is: recorded once, so that every table can name it.


@cache
def base_made_by(base):
    return made_by("base", settings(base))


rule base:
    output:
        record="results/{base}/base.json",
    log:
        "logs/base/{base}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(15),
    params:
        settings=told(settings, base_made_by),
        made_by=of(base_made_by),
    shell:
        "python -m lethe.steps.base --settings {params.settings:q} --out-record {output.record:q} 2> {log:q}"
