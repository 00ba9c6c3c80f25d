# What a base is: recorded once, so that every table can name it.


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
        code=code("base"),
        settings=lambda wildcards: settings(wildcards),
    shell:
        "python -m lethe.steps.base --settings {params.settings:q} --out-record {output.record:q} 2> {log:q}"
