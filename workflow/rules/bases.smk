# What a base is: recorded once, so that every table can name it.


rule base:
    input:
        code=code("base"),
    output:
        record="results/{base}/base.json",
    log:
        "logs/base/{base}.log",
    conda:
        "../../envs/lethe.yaml"
    params:
        settings=lambda wildcards: settings(wildcards),
    shell:
        "python -m lethe.steps.base --settings {params.settings:q} --out-record {output.record:q} 2> {log:q}"
