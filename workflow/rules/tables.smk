# Tables and pictures of a task: one row per method, every number with its n.

ROLES = ("erased", "generality", "kept", "quality")


def tables():
    return [f"results/tables/{task}.csv" for task in config["tasks"]]


def figures():
    examples = [f"results/figures/{task}.png" for task in config["tasks"]]
    losses = [
        f"results/{task['base']}/edits/{name}/losses.png"
        for name, task in config["tasks"].items()
        if "mace" in task["methods"]
    ]
    return examples + losses


def print_results():
    made = [path for path in [*tables(), *figures()] if Path(path).exists()]
    print("\nDone. Tables and pictures:", *(f"  {path}" for path in made), sep="\n")


def role_suites(task, roles=ROLES):
    """The suite of each role in a task's evaluation."""
    evaluation = config["evaluations"][config["tasks"][task]["evaluation"]]
    return {role: evaluation[role] for role in roles}


def task_shards(task, roles, pattern):
    """Paths over the edits of a task and the shards of its suites, in the order that the steps read them."""
    base, evaluation = config["tasks"][task]["base"], config["tasks"][task]["evaluation"]
    return [
        pattern.format(base=base, edit=edit, suite=suite, shard=shard, evaluation=evaluation)
        for edit in edits(task).values()
        for suite in role_suites(task, roles).values()
        for shard in shards(suite)
    ]


def shard_counts(task, roles):
    """How many shards the suite of each role has."""
    return {role: len(shards(suite)) for role, suite in role_suites(task, roles).items()}


def task_sampled_by(task, roles):
    """Digests of how all shards of a task are sampled."""
    base = config["tasks"][task]["base"]
    suites = role_suites(task, roles).values()
    return [sampled_by(base, suite, shard) for suite in suites for shard in shards(suite)]


def evaluation_file(name):
    return lambda wildcards: f"results/evaluations/{config['tasks'][wildcards.task]['evaluation']}/{name}"


rule objects_table:
    input:
        measures=lambda wildcards: task_shards(
            wildcards.task, ROLES, "results/{base}/measures/{edit}/{suite}/{shard}.{evaluation}-clip.parquet"
        ),
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
        code=code("objects_table"),
        sampled=lambda wildcards: task_sampled_by(wildcards.task, ROLES),
        settings=lambda wildcards: encode_argument(
            dict(
                concepts=sorted(config["tasks"][wildcards.task]["concepts"]),
                shards=shard_counts(wildcards.task, ROLES),
                methods=list(edits(wildcards.task)),
                clip=config["evaluations"][config["tasks"][wildcards.task]["evaluation"]]["clip"],
                sampling=config["sampling"],
            )
        ),
    shell:
        """
        python -m lethe.steps.objects_table --settings {params.settings:q} --measures {input.measures:q} \
            --classes {input.classes:q} --reference {input.reference:q} --base {input.base:q} \
            --out-table {output.table:q} --out-record {output.record:q} 2> {log:q}
        """


rule examples:
    input:
        shards=lambda wildcards: task_shards(
            wildcards.task, ROLES[:3], "results/{base}/samples/{edit}/{suite}/{shard}.zip"
        ),
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
        code=code("examples"),
        sampled=lambda wildcards: task_sampled_by(wildcards.task, ROLES[:3]),
        settings=lambda wildcards: encode_argument(
            dict(
                concepts=sorted(config["tasks"][wildcards.task]["concepts"]),
                shards=shard_counts(wildcards.task, ROLES[:3]),
                methods=list(edits(wildcards.task)),
                **config["figures"]["examples"],
            )
        ),
    shell:
        """
        python -m lethe.steps.examples --settings {params.settings:q} --shards {input.shards:q} \
            --out-figure {output.figure:q} 2> {log:q}
        """
