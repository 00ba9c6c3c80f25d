# Second moments of text that edits preserve; one small file per prior and text encoder, shared by bases that share it.


def prior_sources(wildcards):
    """The files of a prior's texts. Those that are given are ancient: their digest decides whether to compute again."""
    files = prior_files(config["priors"][wildcards.prior])
    return [path if path.startswith("results/") else ancient(path) for path in files]


@cache
def prior_settings(text, prior):
    """What a prior depends on: of a base its text encoders alone, so that another one with them computes nothing."""
    base = next(base_settings(name) for name in config["bases"] if text_of(name) == text)
    source = {key: base[key] for key in PLACES} | dict(fingerprint=text)
    common = dict(text=source, device=config["device"], precision=config["precision"])
    return Argument(common | dict(prior=config["priors"][prior]))


@cache
def prior_made_by(text, prior):
    coco = coco_annotations_made_by()
    sources = [coco if path.startswith("results/") else content(path) for path in prior_files(config["priors"][prior])]
    return made_by("prior", prior_settings(text, prior), *sources)


def coco_annotations_settings():
    return Argument(config["downloads"]["coco_annotations"])


@cache
def coco_annotations_made_by():
    return made_by("coco_annotations", coco_annotations_settings())


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
        settings=coco_annotations_settings().made_by(coco_annotations_made_by()),
        made_by=coco_annotations_made_by(),
    shell:
        """
        python -m lethe.steps.coco_annotations --settings {params.settings:q} \
            --out-train {output.train:q} --out-val {output.val:q} --out-record {output.record:q} 2> {log:q}
        """


rule prior:
    input:
        sources=prior_sources,
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
        settings=told(prior_settings, prior_made_by),
        made_by=of(prior_made_by),
    shell:
        """
        python -m lethe.steps.prior --settings {params.settings:q} --threads {threads} \
            --sources {input.sources:q} --out-prior {output.prior:q} 2> {log:q}
        """
