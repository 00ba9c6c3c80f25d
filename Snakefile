# Lethe: erase concepts from text-to-image diffusion models and measure what that did.
#
#   snakemake --cores 2                 the default run: edits, samples, tables and pictures of every task
#   snakemake --cores 2 paper_emoji --configfile config/emoji/*.yaml
#                                       the experiments of MACE's paper on the emoji world
#   snakemake --cores 2 emoji_world     make the embedded emoji models again (hours on a CPU)


include: "workflow/Snakefile"
include: "workflow/emoji_world/rules.smk"


workflow.default_target = "all"  # which an include leaves open
