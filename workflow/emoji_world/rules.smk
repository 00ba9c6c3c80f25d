# How the embedded emoji models were made. Not part of the default run: `snakemake --cores 2 emoji_world`.
# Training resumes from checkpoints; results/emoji_world/release has the layout of resources/emoji.

from emoji_world.plan import EmojiPlan

with open(Path(workflow.basedir) / "config" / "emoji_world.yaml", encoding="utf-8") as file:
    EMOJI = EmojiPlan(yaml.safe_load(file), hash_file=HASHES)


rule emoji_world:
    input:
        "results/emoji_world/release/README.md",
    localrule: True


rule emoji_icons:
    input:
        unpack(inputs(EMOJI.icons)),
    output:
        **outputs(EMOJI.icons),
    log:
        "logs/emoji_icons.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.icons),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_vae:
    input:
        unpack(inputs(EMOJI.vae)),
    output:
        **outputs(EMOJI.vae),
    log:
        "logs/emoji_vae.log",
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        **told(EMOJI.vae),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_diffusion:
    input:
        unpack(inputs(EMOJI.diffusion)),
    output:
        **outputs(EMOJI.diffusion),
    log:
        "logs/emoji_diffusion.log",
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        **told(EMOJI.diffusion),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_clip:
    input:
        unpack(inputs(EMOJI.clip)),
    output:
        **outputs(EMOJI.clip),
    log:
        "logs/emoji_clip.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        **told(EMOJI.clip),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_clipseg:
    input:
        unpack(inputs(EMOJI.clipseg)),
    output:
        **outputs(EMOJI.clipseg),
    log:
        "logs/emoji_clipseg.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
    params:
        **told(EMOJI.clipseg),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_reference:
    input:
        unpack(inputs(EMOJI.reference)),
    output:
        **outputs(EMOJI.reference),
    log:
        "logs/emoji_reference.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.reference),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_quality:
    input:
        unpack(inputs(EMOJI.quality)),
    output:
        **outputs(EMOJI.quality),
    log:
        "logs/emoji_quality.log",
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        **told(EMOJI.quality),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_release:
    input:
        unpack(inputs(EMOJI.release)),
    output:
        **outputs(EMOJI.release),
    log:
        "logs/emoji_release.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.release),
    message:
        MESSAGE
    shell:
        COMMAND
