"""The reference set of the emoji world: renders that no model learned from, each with a caption (its "COCO")."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emoji_world.renders import Variation, make_pictures
from emoji_world.world import PLACES, World, caption_of
from lethe.files.shards import write_shard


def write_reference(icons: np.ndarray, world: World, n: int, *, seed: int, variation: Variation, folder: Path) -> None:
    """Write `images.zip` (a shard) and `captions.csv` (rows type, prompt, evaluation_seed) of `n` new pictures."""
    pictures, rng = make_pictures(icons, n, seed=seed, variation=variation), np.random.default_rng([seed, 1])
    rows = []
    for number, (thing, style) in enumerate(zip(pictures.things, pictures.styles, strict=True)):
        caption = ""
        while not caption:
            caption = caption_of(world, thing, style, rng)
        rows.append((PLACES[thing] if thing < 0 else world.things[thing].name, caption, number + 1))
    table = pd.DataFrame(rows, columns=["type", "prompt", "evaluation_seed"]).rename_axis("row")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "captions.csv", index=False, lineterminator="\n")
    write_shard(folder / "images.zip", table, list(pictures.images))
