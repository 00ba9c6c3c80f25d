"""Put together the folder that ships as resources/emoji."""

import json
import shutil

from emoji_world.release import card, halve
from emoji_world.world import read_world
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    folder = job.out["card"].parent
    halve(job.read("pipeline"), job.read("clip"), job.read("clipseg"), folder)
    shutil.copytree(job.read("reference"), folder / "reference", dirs_exist_ok=True)
    for name in ("objects.tsv", "styles.tsv"):
        shutil.copy(job.read("objects").parent / name, folder / name)
    quality = json.loads(job.read("quality").read_text())
    shutil.copy(job.read("quality"), folder / "quality.json")
    with written_whole(job.out["card"]) as part:
        part.write_text(card(read_world(job.read("objects").parent), quality, job.settings.recipe))
