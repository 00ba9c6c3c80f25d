# Second moments of text that edits preserve; one small file per prior and base.


rule prior:
    input:
        captions=lambda wildcards: config["priors"][wildcards.prior]["file"],
        code=code("prior"),
    output:
        prior="results/{base}/priors/{prior}.safetensors",
    log:
        "logs/prior/{base}/{prior}.log",
    benchmark:
        "logs/prior/{base}/{prior}.tsv"
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=lambda wildcards: settings(wildcards, column=config["priors"][wildcards.prior].get("column")),
    shell:
        """
        python -m lethe.steps.prior --settings {params.settings:q} --threads {threads} \
            --captions {input.captions:q} --out-prior {output.prior:q} 2> {log:q}
        """
