# Suites of rows, sampled in shards from the base as it is and from every edit.


def suite_source(wildcards):
    """The file that a suite's rows come from. It is ancient: a digest of a shard's rows decides whether to sample."""
    suite = config["suites"][wildcards.suite]
    return [ancient(suite[key]) for key in ("file", "table") if key in suite]


def shard_definition(wildcards):
    """What makes a shard's rows, and their digest; further rows after a shard leave it as it is."""
    suite, shard = config["suites"][wildcards.suite], int(wildcards.shard)
    rows = shard_rows(SUITES[wildcards.suite], shard, config["sampling"]["shard_size"])
    if "rows" in suite:
        suite = suite | {"rows": int(rows.index[-1]) + 1}
    return dict(suite=suite, shard=shard, digest=rows_digest(rows))


def sample_settings(base, suite, shard):
    """A shard's settings, whatever edit it is sampled from."""
    wildcards = SimpleNamespace(base=base, suite=suite, shard=shard)
    return settings(wildcards, sampling=config["sampling"], **shard_definition(wildcards))


@cache
def sampled_by(base, suite, shard):
    """Digest of how a shard is sampled. What is made from shards has it as a parameter, too: Snakemake looks at the
    parameters of a job only while its output is there, and a job that fails leaves none beside measures of the last."""
    return hashlib.sha256((sample_settings(base, suite, shard) + code("sample")).encode()).hexdigest()


rule sample:
    input:
        source=suite_source,
        edit=lambda wildcards: (
            [] if wildcards.edit == "original" else f"results/{wildcards.base}/edits/{wildcards.edit}.safetensors"
        ),
    output:
        shard="results/{base}/samples/{edit}/{suite}/{shard}.zip",
    log:
        "logs/sample/{base}/{edit}/{suite}/{shard}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000, base_model),
        runtime=growing(60),
        gpu=GPUS,
    params:
        code=code("sample"),
        settings=lambda wildcards: sample_settings(wildcards.base, wildcards.suite, wildcards.shard),
    shell:
        """
        python -m lethe.steps.sample --settings {params.settings:q} --threads {threads} \
            --edit {input.edit:q} --out-shard {output.shard:q} 2> {log:q}
        """
