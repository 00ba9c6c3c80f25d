# How the embedded emoji models are made. Not part of the default run: `snakemake --cores 2 emoji_world`.
# Hours on a CPU, or on a GPU where `device` finds one. A training that is cut off, by a time limit too, goes on from its
# checkpoint in results/emoji_world/checkpoints; `python -m emoji_world.preview` shows what the pipeline draws meanwhile.
# results/emoji_world/release has the layout of resources/emoji.

from emoji_world.plan import EmojiPlan

with open(Path(workflow.basedir) / "config" / "emoji_world.yaml", encoding="utf-8") as file:
    EMOJI = EmojiPlan(yaml.safe_load(file), hash_file=HASHES)


rule paper_emoji:
    input:
        of_the_paper,
    localrule: True
    message:
        "the experiments of MACE's paper on the emoji world"


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


rule emoji_scenes:
    input:
        unpack(inputs(EMOJI.scenes)),
    output:
        **outputs(EMOJI.scenes),
    log:
        "logs/emoji_scenes.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.scenes),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_judge_scenes:
    input:
        unpack(inputs(EMOJI.judge_scenes)),
    output:
        **outputs(EMOJI.judge_scenes),
    log:
        "logs/emoji_judge_scenes.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.judge_scenes),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_second_judge_scenes:
    input:
        unpack(inputs(EMOJI.second_judge_scenes)),
    output:
        **outputs(EMOJI.second_judge_scenes),
    log:
        "logs/emoji_second_judge_scenes.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **told(EMOJI.second_judge_scenes),
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
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        **told(EMOJI.vae),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_latents:
    input:
        unpack(inputs(EMOJI.latents)),
    output:
        **outputs(EMOJI.latents),
    log:
        "logs/emoji_latents.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=GPUS,
    params:
        **told(EMOJI.latents),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_text:
    input:
        unpack(inputs(EMOJI.text)),
    output:
        **outputs(EMOJI.text),
    log:
        "logs/emoji_text.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        **told(EMOJI.text),
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
    resources:
        mem_mb=growing(4000),
        runtime=growing(1440),
        gpu=GPUS,
    params:
        **told(EMOJI.diffusion),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_wide_text:
    input:
        unpack(inputs(EMOJI.wide_text)),
    output:
        **outputs(EMOJI.wide_text),
    log:
        "logs/emoji_wide_text.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(1440),
        gpu=GPUS,
    params:
        **told(EMOJI.wide_text),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_judge:
    input:
        unpack(inputs(EMOJI.judge)),
    output:
        **outputs(EMOJI.judge),
    log:
        "logs/emoji_judge.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        **told(EMOJI.judge),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_second_judge:
    input:
        unpack(inputs(EMOJI.second_judge)),
    output:
        **outputs(EMOJI.second_judge),
    log:
        "logs/emoji_second_judge.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        **told(EMOJI.second_judge),
    message:
        MESSAGE
    shell:
        COMMAND


rule emoji_segmenter:
    input:
        unpack(inputs(EMOJI.segmenter)),
    output:
        **outputs(EMOJI.segmenter),
    log:
        "logs/emoji_segmenter.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        **told(EMOJI.segmenter),
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
        runtime=growing(240),
        gpu=GPUS,
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
