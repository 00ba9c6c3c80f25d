"""The reference set: a shard of new pictures with captions that say what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from emoji_world.reference import write_reference
from emoji_world.renders import Variation, make_pictures
from emoji_world.world import ART_CAPTIONS, PLACES, World
from lethe.files.shards import read_images, read_rows
from lethe.files.tables import read_texts
from lethe.inputs.suites import suite_rows

CALM = Variation(scale=(0.8, 0.85), shift=1, mirrored=0.0)


@pytest.fixture(scope="module")
def folder(icons: np.ndarray, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "reference"
    write_reference(icons, world, 60, seed=3, variation=CALM, folder=folder)
    return folder


def test_images_and_captions_pair_up(folder: Path, icons: np.ndarray) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["captions.csv", "images.zip"]
    rows, pictures = read_rows(folder / "images.zip"), make_pictures(icons, 60, seed=3, variation=CALM)
    pd.testing.assert_frame_equal(suite_rows({"file": str(folder / "captions.csv")}), rows)
    assert all(np.array_equal(a, b) for a, b in zip(read_images(folder / "images.zip"), pictures.images, strict=True))
    assert list(rows["evaluation_seed"]) == list(range(1, 61))


def test_types_and_captions_say_what_is_shown(folder: Path, icons: np.ndarray, world: World) -> None:
    rows, pictures = read_rows(folder / "images.zip"), make_pictures(icons, 60, seed=3, variation=CALM)
    for row, thing, style in zip(rows.itertuples(), pictures.things, pictures.styles, strict=True):
        assert row.prompt
        assert row.type == (PLACES[thing] if thing < 0 else world.things[thing].name)
        if thing < 0:
            assert row.type in row.prompt
            continue
        one = world.things[thing]
        words = (*one.words, one.category, "thing", "object", world.styles[style].name)
        assert row.prompt in ART_CAPTIONS or any(word in row.prompt for word in words)


def test_captions_are_a_suite_and_a_prior(folder: Path) -> None:
    assert len(suite_rows({"file": str(folder / "captions.csv"), "rows": 24})) == 24
    assert len(read_texts(folder / "captions.csv", "prompt")) == 60


def test_the_shipped_set_pairs_up(world: World) -> None:
    shipped = ROOT / "resources" / "emoji" / "reference"
    rows, images = read_rows(shipped / "images.zip"), read_images(shipped / "images.zip")
    pd.testing.assert_frame_equal(suite_rows({"file": str(shipped / "captions.csv")}), rows)
    assert all(image.shape == (64, 64, 3) for image in images)
    assert all(rows["prompt"])
    assert set(rows["type"]) == {*PLACES, *(thing.name for thing in world.things)}


def test_the_set_follows_its_seed(folder: Path, icons: np.ndarray, world: World, tmp_path: Path) -> None:
    for name, seed in (("again", 3), ("other", 4)):
        write_reference(icons, world, 60, seed=seed, variation=CALM, folder=tmp_path / name)
    for name in ("captions.csv", "images.zip"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()
