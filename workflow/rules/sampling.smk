# Suites of rows, sampled in shards from the base as it is and from every edit.


EDITS_MADE_BY = {"mace": mace_made_by}


def suite_source(wildcards):
    """The file that a suite's rows come from. It is ancient: a digest of a shard's rows decides whether to sample."""
    suite = config["suites"][wildcards.suite]
    return [ancient(suite[key]) for key in ("file", "table") if key in suite]


def sampled_edit(wildcards):
    """The edit to sample from, unless it is the base as it is."""
    if wildcards.edit == "original":
        return []
    return f"results/{wildcards.base}/edits/{wildcards.edit}.safetensors"


@cache
def suite_digests(suite):
    """The digest of the rows of each of a suite's shards."""
    return shard_digests(SUITES[suite], config["sampling"]["shard_size"])


def shard_definition(suite, shard):
    """What makes a shard's rows, and their digest; further rows after a shard leave it as it is."""
    source, number = config["suites"][suite], int(shard)
    if "rows" in source:
        source = source | {"rows": min(len(SUITES[suite]), (number + 1) * config["sampling"]["shard_size"])}
    return dict(suite=source, shard=number, digest=suite_digests(suite)[number])


@cache
def sample_settings(base, suite, shard):
    """A shard's settings, whatever edit it is sampled from."""
    return settings(base, sampling=config["sampling"], **shard_definition(suite, shard))


@cache
def edit_made_by(base, edit):
    """How the edit `task/method` is made; the base as it is needs nothing."""
    if edit == "original":
        return None
    task, method = edit.split("/")
    return EDITS_MADE_BY[method](base, task)


@cache
def sample_made_by(base, edit, suite, shard):
    return made_by("sample", sample_settings(base, suite, shard), edit_made_by(base, edit))


rule sample:
    input:
        source=suite_source,
        edit=sampled_edit,
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
        settings=told(sample_settings, sample_made_by),
        made_by=of(sample_made_by),
    shell:
        """
        python -m lethe.steps.sample --settings {params.settings:q} --threads {threads} \
            --edit {input.edit:q} --out-shard {output.shard:q} 2> {log:q}
        """
