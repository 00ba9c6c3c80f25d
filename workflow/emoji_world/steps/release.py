"""Put together the folder that ships as resources/emoji."""

import json
import shutil

from emoji_world.release import card, check_size, halve
from emoji_world.world import TABLES, read_world
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    folder, world = job.out["card"].parent, read_world(job.read("objects").parent)
    halve(job.read("pipeline"), job.read("judge"), job.read("second_judge"), job.read("segmenter"), folder)
    shutil.copytree(job.read("reference"), folder / "reference", dirs_exist_ok=True)
    for path in (*(job.read(name) for name in TABLES), job.read("quality")):
        shutil.copy(path, folder / path.name)
    check_size(folder)
    quality = json.loads(job.read("quality").read_text(encoding="utf-8"))
    with written_whole(job.out["card"]) as part:
        part.write_text(card(world, quality, job.settings.recipe), encoding="utf-8")
