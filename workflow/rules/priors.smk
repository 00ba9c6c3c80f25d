# Second moments of text that edits preserve; one small file per prior and text encoder, shared by bases that share it.


def prior_sources(wildcards):
    """The files of a prior's texts. Those that are given are ancient: their digest decides whether to compute again."""
    files = prior_files(config["priors"][wildcards.prior])
    return [path if path.startswith("results/") else ancient(path) for path in files]


def prior_settings(wildcards):
    """What a prior depends on; not the base, so that another one with the same text encoder computes nothing again."""
    prior = config["priors"][wildcards.prior]
    digests = [sha256_of(path) for path in prior_files(prior) if not path.startswith("results/")]
    common = dict(text=wildcards.text, device=config["device"], precision=config["precision"])
    return encode_argument(common | dict(prior=prior, digests=digests))


def text_base(wildcards):
    """Where the first base that has a text encoder is."""
    base = next(base for name, base in BASES.items() if TEXTS[name] == wildcards.text)
    return {key: base[key] for key in ("model", "revision", "variant")}


rule text_encoder:
    output:
        source="results/priors/{text}/text_encoder.json",
    log:
        "logs/text_encoder/{text}.log",
    localrule: True
    conda:
        "../../envs/lethe.yaml"
    params:
        source=lambda wildcards: encode_argument(text_base(wildcards)),
    shell:
        "printf '%s\\n' {params.source:q} > {output.source:q} 2> {log:q}"


rule coco_annotations:
    output:
        train="results/coco/captions_train2014.json",
        val="results/coco/captions_val2014.json",
        record="results/coco/source.json",
    log:
        "logs/coco_annotations.log",
    localrule: True
    conda:
        "../../envs/lethe.yaml"
    params:
        code=code("coco_annotations"),
        settings=encode_argument(config["downloads"]["coco_annotations"]),
    shell:
        """
        python -m lethe.steps.coco_annotations --settings {params.settings:q} \
            --out-train {output.train:q} --out-val {output.val:q} --out-record {output.record:q} 2> {log:q}
        """


rule prior:
    input:
        sources=prior_sources,
        text_encoder=ancient(rules.text_encoder.output.source),
    output:
        prior="results/priors/{text}/{prior}.safetensors",
    log:
        "logs/prior/{text}/{prior}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=GPUS,
    params:
        code=code("prior"),
        settings=prior_settings,
    shell:
        """
        python -m lethe.steps.prior --settings {params.settings:q} --threads {threads} \
            --sources {input.sources:q} --text-encoder {input.text_encoder:q} --out-prior {output.prior:q} 2> {log:q}
        """
