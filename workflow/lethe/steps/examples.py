"""Draw samples before and after, same prompts and seeds: erased concepts and their synonyms, then what should stay."""

import json
import os

import pandas as pd

from lethe.files.shards import read_about, read_images, read_rows
from lethe.pictures.examples import chosen_prompts, chosen_seeds
from lethe.pictures.figures import image_grid
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, samples = job.settings, {}
    roles = {role: counts for role, (_, counts) in settings.roles}
    shards = {path: (read_about(path), read_rows(path)) for path in job.reads["shards"]}
    for method, edit in settings.edits:
        tables = [
            rows.assign(role=role, shard=path)
            for role, (suite, _) in settings.roles
            for path, (about, rows) in shards.items()
            if (about["edit"], about["suite"]) == (edit, suite)
        ]
        samples[method] = pd.concat(tables).reset_index()
    first_rows, shares = next(iter(samples.values())), None
    for path in job.reads["scores"]:  # the record of the task's table, where there are more concepts than columns
        details = json.loads(path.read_text(encoding="utf-8"))["details"]
        methods = [name for method, _ in settings.edits for name in (method, f"{settings.task}/{method}")]
        named = [name for name in methods if name in details]
        edits = [details[name]["acc_e_by_concept"] for name in named if not name.endswith("original")]
        shares = pd.DataFrame(edits).mean()
    columns = chosen_prompts(first_rows, settings.concepts, roles, kept=settings.kept, recognised=shares)
    seeds = []
    for role, prompt in columns:
        same = (first_rows["role"] == role) & (first_rows["prompt"] == prompt)
        seeds.append(chosen_seeds(first_rows["evaluation_seed"][same].tolist(), *settings.seeds))
    grid, labels = [], []
    for number in range(max(map(len, seeds))):
        of_columns = [own[number] if number < len(own) else None for own in seeds]
        (name,) = {f"seed {seed}" for seed in of_columns} if len(set(of_columns)) == 1 else {f"image {number + 1}"}
        for method, rows in samples.items():
            line = []
            for (role, prompt), seed in zip(columns, of_columns, strict=True):
                same = (rows["role"] == role) & (rows["prompt"] == prompt) & (rows["evaluation_seed"] == seed)
                found = rows[same].head(1).itertuples()
                line += [read_images(row.shard, [row.row])[0] for row in found] or [None]
            grid.append(line)
            labels.append(f"{method}\n{name}")
    common = os.path.commonprefix([prompt for _, prompt in columns])  # noqa: RUF071, cut at a word below
    common = common[: common.rfind(" ") + 1]
    gone = sum(roles[role] == "erased" for role, _ in columns)
    erased = ", ".join(settings.concepts)
    first = next(iter(roles))
    if gone and (shown := sum(role == first for role, _ in columns)) < len(settings.concepts):
        worst = ", those that the judge recognises most often after the edit, worst first" * bool(job.reads["scores"])
        erased = f"{shown} of {len(settings.concepts)} concepts{worst}"
    where = "Erased (left of the gap)" if gone else "Erased"
    together = "pair" if len(settings.edits) == 2 else "group"
    prompts = f' Prompts: "{common}…";' if common else ""
    said = f"{where}: {erased}.{prompts} {'each' if prompts else 'Each'} {together} of rows has the same seeds."
    image_grid(
        job.out["figure"],
        grid,
        columns=[prompt[len(common) :] for _, prompt in columns],
        rows=labels,
        divider=gone,
        title=said,
    )
