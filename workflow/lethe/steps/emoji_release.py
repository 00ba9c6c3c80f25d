"""Put together the folder that ships as resources/emoji."""

import json
import shutil

from lethe.embedded.release import card, halve
from lethe.embedded.world import read_world
from lethe.files.whole import written_whole
from lethe.steps.job import step

if __name__ == "__main__":
    with step(
        "emoji_release",
        __doc__,
        inputs=["world", "pipeline", "clip", "clipseg", "reference", "quality"],
        outputs=["card"],
    ) as args:
        folder = args.out_card.parent
        halve(args.pipeline, args.clip, args.clipseg, folder)
        shutil.copytree(args.reference, folder / "reference", dirs_exist_ok=True)
        for name in ("objects.tsv", "styles.tsv"):
            shutil.copy(args.world / name, folder / name)
        quality = json.loads(args.quality.read_text())
        shutil.copy(args.quality, folder / "quality.json")
        with written_whole(args.out_card) as part:
            part.write_text(card(read_world(args.world), quality, args.settings.recipe))
