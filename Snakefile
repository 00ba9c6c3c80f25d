# Lethe: erase concepts from text-to-image diffusion models and measure what that did.
#
#   snakemake --cores 2                 the default run: edits, samples, tables and pictures of every task
#   snakemake --cores 2 emoji_world     make the embedded emoji models again (hours on a CPU)


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/bases.smk"
include: "workflow/rules/concepts.smk"
include: "workflow/rules/priors.smk"
include: "workflow/rules/mace.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/measures.smk"
include: "workflow/rules/tables.smk"
include: "workflow/emoji_world/rules.smk"


rule all:
    default_target: True
    input:
        results(),
    localrule: True
    message:
        "the tables and pictures of every task"


onstart:
    gc.enable()
    check_writable("results")
    check_cluster()


onsuccess:
    print_results()
