# How the embedded emoji models were made. Not part of the default run: `snakemake --cores 2 emoji_world`.
# Training resumes from checkpoints; results/emoji_world/release has the layout of resources/emoji.

with open(Path(workflow.basedir) / "config" / "emoji_world.yaml", encoding="utf-8") as file:
    RECIPE = yaml.safe_load(file)

WORLD = "resources/emoji"


def emoji_settings(model):
    """The settings that every training rule of the emoji world passes."""
    return Argument(
        {
            "budget": RECIPE[model],
            "pictures": RECIPE["pictures"],
            "picture_seed": RECIPE["picture_seed"],
            "variation": RECIPE["variation"],
            "checkpoint": f"results/emoji_world/checkpoints/{model}.safetensors",
        }
    )


@cache
def emoji_made_by():
    """How each part of the emoji world is made."""
    tables = [content(f"{WORLD}/{name}.tsv") for name in ("objects", "styles")]
    icons = made_by("emoji_icons", ICONS, *tables)
    vae = made_by("emoji_vae", emoji_settings("vae"), icons)
    diffusion = made_by("emoji_diffusion", emoji_settings("diffusion"), icons, vae)
    clip = made_by("emoji_clip", emoji_settings("clip"), icons)
    clipseg = made_by("emoji_clipseg", emoji_settings("clipseg"), icons, clip)
    reference = made_by("emoji_reference", REFERENCE, icons)
    quality = made_by("emoji_quality", QUALITY, icons, diffusion, clip, clipseg)
    release = made_by("emoji_release", RELEASE, diffusion, clip, clipseg, reference, quality)
    return SimpleNamespace(**locals())


ICONS = Argument(dict(collections=RECIPE["collections"]))
REFERENCE = Argument(RECIPE["reference"] | {"variation": RECIPE["variation"]})
QUALITY = Argument(RECIPE["quality"])
RELEASE = Argument(dict(recipe=RECIPE))


rule emoji_world:
    input:
        "results/emoji_world/release/README.md",
    localrule: True


rule emoji_icons:
    input:
        objects=ancient(f"{WORLD}/objects.tsv"),
        styles=ancient(f"{WORLD}/styles.tsv"),
    output:
        collections=directory("results/emoji_world/collections"),
        icons="results/emoji_world/icons.safetensors",
    log:
        "logs/emoji_icons.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: ICONS.made_by(emoji_made_by().icons),
        made_by=lambda wildcards: emoji_made_by().icons,
    shell:
        """
        python -m lethe.steps.emoji_icons --world {WORLD:q} --settings {params.settings:q} \
            --out-collections {output.collections:q} --out-icons {output.icons:q} 2> {log:q}
        """


rule emoji_vae:
    input:
        icons=rules.emoji_icons.output.icons,
    output:
        model=directory("results/emoji_world/vae"),
        curve="results/emoji_world/vae.json",
    log:
        "logs/emoji_vae.log",
    conda:
        "../../envs/lethe.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        settings=lambda wildcards: emoji_settings("vae").made_by(emoji_made_by().vae),
        made_by=lambda wildcards: emoji_made_by().vae,
    shell:
        """
        python -m lethe.steps.emoji_vae --icons {input.icons:q} --settings {params.settings:q} \
            --threads {threads} --out-model {output.model:q} --out-curve {output.curve:q} 2> {log:q}
        """


rule emoji_diffusion:
    input:
        icons=rules.emoji_icons.output.icons,
        vae=rules.emoji_vae.output.model,
    output:
        model=directory("results/emoji_world/pipeline"),
        curve="results/emoji_world/pipeline.json",
    log:
        "logs/emoji_diffusion.log",
    conda:
        "../../envs/lethe.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        settings=lambda wildcards: emoji_settings("diffusion").made_by(emoji_made_by().diffusion),
        made_by=lambda wildcards: emoji_made_by().diffusion,
    shell:
        """
        python -m lethe.steps.emoji_diffusion --icons {input.icons:q} --vae {input.vae:q} --world {WORLD:q} \
            --settings {params.settings:q} --threads {threads} --out-model {output.model:q} --out-curve {output.curve:q} 2> {log:q}
        """


rule emoji_clip:
    input:
        icons=rules.emoji_icons.output.icons,
    output:
        model=directory("results/emoji_world/clip"),
        curve="results/emoji_world/clip.json",
    log:
        "logs/emoji_clip.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        settings=lambda wildcards: emoji_settings("clip").made_by(emoji_made_by().clip),
        made_by=lambda wildcards: emoji_made_by().clip,
    shell:
        """
        python -m lethe.steps.emoji_clip --icons {input.icons:q} --world {WORLD:q} --settings {params.settings:q} \
            --threads {threads} --out-model {output.model:q} --out-curve {output.curve:q} 2> {log:q}
        """


rule emoji_clipseg:
    input:
        icons=rules.emoji_icons.output.icons,
        clip=rules.emoji_clip.output.model,
    output:
        model=directory("results/emoji_world/clipseg"),
        curve="results/emoji_world/clipseg.json",
    log:
        "logs/emoji_clipseg.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        settings=lambda wildcards: emoji_settings("clipseg").made_by(emoji_made_by().clipseg),
        made_by=lambda wildcards: emoji_made_by().clipseg,
    shell:
        """
        python -m lethe.steps.emoji_clipseg --icons {input.icons:q} --clip {input.clip:q} --world {WORLD:q} \
            --settings {params.settings:q} --threads {threads} \
            --out-model {output.model:q} --out-curve {output.curve:q} 2> {log:q}
        """


rule emoji_reference:
    input:
        icons=rules.emoji_icons.output.icons,
    output:
        folder=directory("results/emoji_world/reference"),
    log:
        "logs/emoji_reference.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: REFERENCE.made_by(emoji_made_by().reference),
        made_by=lambda wildcards: emoji_made_by().reference,
    shell:
        """
        python -m lethe.steps.emoji_reference --settings {params.settings:q} --world {WORLD:q} \
            --icons {input.icons:q} --out-folder {output.folder:q} 2> {log:q}
        """


rule emoji_quality:
    input:
        icons=rules.emoji_icons.output.icons,
        pipeline=rules.emoji_diffusion.output.model,
        clip=rules.emoji_clip.output.model,
        clipseg=rules.emoji_clipseg.output.model,
    output:
        quality="results/emoji_world/quality.json",
    log:
        "logs/emoji_quality.log",
    conda:
        "../../envs/lethe.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        settings=lambda wildcards: QUALITY.made_by(emoji_made_by().quality),
        made_by=lambda wildcards: emoji_made_by().quality,
    shell:
        """
        python -m lethe.steps.emoji_quality --settings {params.settings:q} --threads {threads} \
            --world {WORLD:q} --icons {input.icons:q} --pipeline {input.pipeline:q} --clip {input.clip:q} \
            --clipseg {input.clipseg:q} --out-quality {output.quality:q} 2> {log:q}
        """


rule emoji_release:
    input:
        pipeline=rules.emoji_diffusion.output.model,
        clip=rules.emoji_clip.output.model,
        clipseg=rules.emoji_clipseg.output.model,
        reference=rules.emoji_reference.output.folder,
        quality=rules.emoji_quality.output.quality,
    output:
        card="results/emoji_world/release/README.md",
    log:
        "logs/emoji_release.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: RELEASE.made_by(emoji_made_by().release),
        made_by=lambda wildcards: emoji_made_by().release,
    shell:
        """
        python -m lethe.steps.emoji_release --settings {params.settings:q} --world {WORLD:q} \
            --pipeline {input.pipeline:q} --clip {input.clip:q} --clipseg {input.clipseg:q} \
            --reference {input.reference:q} --quality {input.quality:q} --out-card {output.card:q} 2> {log:q}
        """
