# Tables and pictures of a task: one row per method, every number with its n.

# Where the configuration leaves the picture out, it is still drawn for whoever asks for it by name.
EXAMPLES = config["figures"]["examples"] or dict(seeds=[1, 2], kept=7)


def tables():
    return [f"results/tables/{task}.csv" for task in config["tasks"]]


def figures():
    shown = config["figures"]["examples"] is not None
    examples = [f"results/figures/{task}.png" for task in config["tasks"]] if shown else []
    of_training = [
        f"results/{task['base']}/edits/{name}/{picture}"
        for name, task in config["tasks"].items()
        if "mace" in task["methods"]
        for picture in ("losses.png", "masks")
    ]
    return examples + of_training


def print_results():
    made = [path for path in [*tables(), *figures()] if Path(path).exists()]
    print("\nDone. Tables and pictures:", *(f"  {path}" for path in made), sep="\n")
    if said := notes(Path(path) for job in workflow.dag.jobs for path in job.output):
        print("Know before you read them:", *(f"  {sentence}" for sentence in said), sep="\n")


def role_suites(task, roles=ROLES):
    """The suite of each role in a task's evaluation that has one."""
    evaluation = config["evaluations"][config["tasks"][task]["evaluation"]]
    return {role: evaluation[role] for role in roles if evaluation[role] is not None}


def task_shards(task, roles):
    """Base, edit, suite and number of every shard of a task, in the order that the steps read them."""
    base = config["tasks"][task]["base"]
    return [
        (base, edit, suite, shard)
        for edit in edits(task).values()
        for suite in role_suites(task, roles).values()
        for shard in shards(suite)
    ]


def shard_counts(task, roles):
    """How many shards the suite of each role has."""
    return {role: len(shards(suite)) for role, suite in role_suites(task, roles).items()}


def objects_table_settings(task):
    chosen = config["tasks"][task]
    return Argument(
        dict(
            concepts=sorted(chosen["concepts"]),
            shards=shard_counts(task, ROLES),
            methods=list(edits(task)),
            clip=judge(chosen["evaluation"]),
            sampling=config["sampling"],
        )
    )


@cache
def objects_table_made_by(task):
    base, evaluation = config["tasks"][task]["base"], config["tasks"][task]["evaluation"]
    measures = [clip_made_by(*shard, evaluation) for shard in task_shards(task, ROLES)]
    references = clip_classes_made_by(evaluation), clip_reference_made_by(evaluation), base_made_by(base)
    return made_by("objects_table", objects_table_settings(task), measures, *references)


def examples_settings(task):
    return Argument(
        dict(
            concepts=sorted(config["tasks"][task]["concepts"]),
            shards=shard_counts(task, ROLES[:3]),
            methods=list(edits(task)),
            **EXAMPLES,
        )
    )


def holds_every_concept(task):
    """Whether a picture has room for all that a task erases. Where it has not, it shows the worst."""
    columns = len(config["tasks"][task]["concepts"]) * len(role_suites(task, ROLES[:2]))
    return shown_columns(columns, EXAMPLES["kept"])[0] == columns


@cache
def examples_made_by(task):
    shards_made_by = [sample_made_by(*shard) for shard in task_shards(task, ROLES[:3])]
    scores = None if holds_every_concept(task) else objects_table_made_by(task)
    return made_by("examples", examples_settings(task), shards_made_by, scores)


def task_measures(wildcards):
    evaluation = config["tasks"][wildcards.task]["evaluation"]
    return [
        f"results/{base}/measures/{edit}/{suite}/{shard}.{evaluation}-clip.parquet"
        for base, edit, suite, shard in task_shards(wildcards.task, ROLES)
    ]


def example_scores(wildcards):
    return [] if holds_every_concept(wildcards.task) else [f"results/tables/{wildcards.task}.json"]


def example_shards(wildcards):
    return [
        f"results/{base}/samples/{edit}/{suite}/{shard}.zip"
        for base, edit, suite, shard in task_shards(wildcards.task, ROLES[:3])
    ]


def evaluation_file(name):
    return lambda wildcards: f"results/evaluations/{config['tasks'][wildcards.task]['evaluation']}/{name}"


rule objects_table:
    input:
        measures=task_measures,
        classes=evaluation_file("classes-clip.parquet"),
        reference=evaluation_file("reference-clip.parquet"),
        base=lambda wildcards: f"results/{config['tasks'][wildcards.task]['base']}/base.json",
    output:
        table="results/tables/{task}.csv",
        record="results/tables/{task}.json",
    log:
        "logs/objects_table/{task}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        settings=told(objects_table_settings, objects_table_made_by),
        made_by=of(objects_table_made_by),
    shell:
        """
        python -m lethe.steps.objects_table --settings {params.settings:q} --measures {input.measures:q} \
            --classes {input.classes:q} --reference {input.reference:q} --base {input.base:q} \
            --out-table {output.table:q} --out-record {output.record:q} 2> {log:q}
        """


rule examples:
    input:
        shards=example_shards,
        scores=example_scores,
    output:
        figure="results/figures/{task}.png",
    log:
        "logs/examples/{task}.log",
    conda:
        "../../envs/lethe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(15),
    params:
        settings=told(examples_settings, examples_made_by),
        made_by=of(examples_made_by),
    shell:
        """
        python -m lethe.steps.examples --settings {params.settings:q} --shards {input.shards:q} \
            --scores {input.scores:q} --out-figure {output.figure:q} 2> {log:q}
        """
