# Suites of rows, sampled in shards from the base as it is and from every edit.
# The rows themselves decide what runs again, by their digest, not the files that hold other things as well.


def shard_digest(wildcards):
    """Digest of the rows of one shard."""
    return rows_digest(shard_rows(SUITES[wildcards.suite], int(wildcards.shard), config["sampling"]["shard_size"]))


rule suite:
    input:
        sources=lambda wildcards: [
            ancient(config["suites"][wildcards.suite][key])
            for key in ("file", "table")
            if key in config["suites"][wildcards.suite]
        ],
        code=code("suite"),
    output:
        rows="results/suites/{suite}.csv",
    log:
        "logs/suite/{suite}.log",
    conda:
        "../../envs/lethe.yaml"
    params:
        settings=lambda wildcards: encode_argument(
            dict(suite=config["suites"][wildcards.suite], digest=rows_digest(SUITES[wildcards.suite]))
        ),
    shell:
        """
        python -m lethe.steps.suite --settings {params.settings:q} --sources {input.sources:q} \
            --out-rows {output.rows:q} 2> {log:q}
        """


rule sample:
    input:
        rows=ancient(rules.suite.output.rows),
        edit=lambda wildcards: (
            [] if wildcards.edit == "original" else f"results/{wildcards.base}/edits/{wildcards.edit}.safetensors"
        ),
        code=code("sample"),
    output:
        shard="results/{base}/samples/{edit}/{suite}/{shard}.zip",
    log:
        "logs/sample/{base}/{edit}/{suite}/{shard}.log",
    benchmark:
        "logs/sample/{base}/{edit}/{suite}/{shard}.tsv"
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=1,
    params:
        settings=lambda wildcards: settings(
            wildcards,
            sampling=config["sampling"],
            shard=int(wildcards.shard),
            digest=shard_digest(wildcards),
        ),
    shell:
        """
        python -m lethe.steps.sample --settings {params.settings:q} --threads {threads} \
            --rows {input.rows:q} --edit {input.edit:q} --out-shard {output.shard:q} 2> {log:q}
        """
