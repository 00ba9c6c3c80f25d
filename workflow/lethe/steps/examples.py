"""Draw samples before and after, same prompts and seeds: erased concepts and their synonyms, then what should stay."""

import os

import pandas as pd

from lethe.figures import chosen_prompts, image_grid
from lethe.files import read_images, read_rows
from lethe.steps.arguments import step

ROLES = ("erased", "generality", "kept")

if __name__ == "__main__":
    with step("examples", __doc__, lists=["shards"], outputs=["figure"]) as args:
        settings, paths, samples = args.settings, iter(args.shards), {}
        for method in settings.methods:
            tables = [
                read_rows(path := next(paths)).assign(role=role, shard=path)
                for role in ROLES
                for _ in range(settings.shards[role])
            ]
            samples[method] = pd.concat(tables).reset_index()
        columns = chosen_prompts(next(iter(samples.values())), settings.concepts, kept=settings.kept)
        grid, labels = [], []
        first, last = settings.seeds
        for seed in range(first, last + 1):
            for method, rows in samples.items():
                line = []
                for role, prompt in columns:
                    chosen = rows[
                        (rows["role"] == role) & (rows["prompt"] == prompt) & (rows["evaluation_seed"] == seed)
                    ]
                    if chosen.empty:
                        raise ValueError(f"{prompt!r} has no row with seed {seed}; change figures.examples.seeds")
                    line.append(read_images(chosen["shard"].iloc[0], [chosen["row"].iloc[0]])[0])
                grid.append(line)
                labels.append(f"{method}\nseed {seed}")
        common = os.path.commonprefix([prompt for _, prompt in columns])  # noqa: RUF071, cut at a word below
        common = common[: common.rfind(" ") + 1]
        gone = sum(role != "kept" for role, _ in columns)
        image_grid(
            args.out_figure,
            grid,
            columns=[prompt[len(common) :] for _, prompt in columns],
            rows=labels,
            divider=gone,
            title=f'Erased (left of the gap): {", ".join(settings.concepts)}. Prompts: "{common}…"; '
            "each pair of rows has the same seeds.",
        )
