"""Draw what brought each concept back best: of each probe and edit one image, beside that of the base as it is."""

import pandas as pd

from lethe.files.shards import read_images
from lethe.pictures.attacks import Pair, pairs, strongest
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    shards = dict(zip(job.reads["rows"], job.reads["images"], strict=True))
    parts = [pd.read_parquet(path).reset_index().assign(shard=str(shards[path])) for path in job.reads["rows"]]
    trials = pd.concat(parts, ignore_index=True)

    def pair(edit: str, probe: str) -> Pair | None:
        if (found := strongest(trials, edit, probe)) is None:
            return None
        rows = [row for row in found if row is not None]
        images = [read_images(row["shard"], [int(row["row"])])[0] for row in rows]
        mine = rows[0]
        words = f"{mine['prompt']}, learned" if len(mine["embedding"]) else mine["prompt"]
        return Pair(images[0], images[1] if len(images) > 1 else None, f"{mine['concept']}: {words}")

    methods = [(method, edit) for method, edit in settings.edits if edit != "original"]
    grid = [[pair(edit, probe) for probe in settings.probes] for _, edit in methods]
    pairs(
        job.out["figure"],
        grid,
        columns=settings.probes,
        rows=[method for method, _ in methods],
        title=f"{settings.task}: what each probe brought back best, beside the base's image of the same seed",
    )
