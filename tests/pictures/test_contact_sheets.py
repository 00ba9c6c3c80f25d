"""Contact sheets: outlines where masks end, every image in its place, the same bytes twice, and no slow imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import ROOT
from lethe.files.shards import write_shard
from lethe.pictures.contact_sheets import HALO, LINE, mask_sheet, outlined
from running import step_command


def blob(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A mask of a few boxes, some of which touch the frame."""
    rng, mask = np.random.default_rng(seed), np.zeros((height, width), bool)
    for _ in range(4):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + height // 3, x : x + width // 3] = True
    return mask


def lines_by_loops(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the mask at most two steps from what is not the mask, and pixels outside it one step from it."""
    line, halo = np.zeros_like(mask), np.zeros_like(mask)
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            steps = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if 0 < abs(a) + abs(b) <= 2]
            there = {
                step: 0 <= y + step[0] < height and 0 <= x + step[1] < width and mask[y + step[0], x + step[1]]
                for step in steps
            }
            line[y, x] = mask[y, x] and not all(there.values())
            halo[y, x] = not mask[y, x] and any(there[step] for step in steps if abs(step[0]) + abs(step[1]) == 1)
    return line, halo


@pytest.mark.parametrize(("height", "width", "factor"), [(64, 64, 3), (96, 40, 2), (30, 100, 2), (192, 150, 1)])
def test_outlines_are_the_masks_edges_on_the_enlarged_image(height: int, width: int, factor: int) -> None:
    image = np.random.default_rng(1).integers(0, 200, (height, width, 3), dtype=np.uint8)
    mask = blob(height, width)
    before = image.copy(), mask.copy()
    drawn = outlined(image, mask)
    line, halo = lines_by_loops(np.kron(mask, np.ones((factor, factor), bool)))
    wanted = np.kron(image, np.ones((factor, factor, 1), np.uint8))
    wanted[line], wanted[halo] = LINE, HALO
    assert np.array_equal(drawn, wanted)
    assert line.any()
    assert halo.any()
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def test_a_large_image_is_made_smaller() -> None:
    mask = np.zeros((768, 384), bool)
    mask[384:] = True  # the lower half
    drawn = outlined(np.full((768, 384, 3), 128, np.uint8), mask)
    assert drawn.shape == (192, 96, 3)
    assert (drawn[96:98] == LINE).all()
    assert (drawn[95] == HALO).all()
    assert (drawn[:95] == 128).all()


def test_a_full_frame_has_its_edge_at_the_frame() -> None:
    drawn = outlined(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))
    assert (drawn[:2] == LINE).all()
    assert (drawn[:, -2:] == LINE).all()
    assert not drawn[2:-2, 2:-2].any()


def sheet(path: Path, found: list[int], title: str = "ship") -> np.ndarray:
    """A sheet of images in colours of their own, their masks the upper half."""
    images = [np.full((64, 48, 3), (20 * k, 255 - 20 * k, 77), np.uint8) for k in range(len(found))]
    masks = [np.arange(64 * 48).reshape(64, 48) < 32 * 48 for _ in found]
    mask_sheet(path, images, masks, found, title=title)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (3, 3), (8, 4), (11, 5)])
def test_every_image_is_in_its_place(tmp_path: Path, n: int, columns: int) -> None:
    picture = sheet(tmp_path / "deep" / "sheet.png", [1] * n)
    places = []
    for k in range(n):
        pixels = np.argwhere((picture == (20 * k, 255 - 20 * k, 77)).all(axis=-1))
        assert len(pixels) > 0.9 * 192 * 144  # all but the outline
        places.append(pixels.min(axis=0))
    places = np.array(places)
    for k in range(1, n):
        if k % columns:
            assert places[k][0] == places[k - 1][0]
            assert places[k][1] > places[k - 1][1] + 144
        else:
            assert places[k][1] == places[0][1]
            assert places[k][0] > places[k - 1][0] + 192
    assert (picture == LINE).all(axis=-1).sum() == n * (2 * 144 + 2 * 2 * (96 - 2) + 2 * (144 - 4))


def test_images_without_the_concept_are_marked(tmp_path: Path) -> None:
    def reddish(picture: np.ndarray) -> int:
        return int(((picture[..., 0] > 150) & (picture[..., 1] < 60) & (picture[..., 2] < 60)).sum())

    assert reddish(sheet(tmp_path / "all.png", [1, 3, 1])) == 0
    assert reddish(sheet(tmp_path / "some.png", [1, 0, 1])) > 50


def test_a_long_name_in_any_script_fits_and_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    title = "Charles-François Daubigny, Пётр Кончаловский: masks by grounded-sam" * 2
    short, long = sheet(tmp_path / "short.png", [1]), sheet(tmp_path / "a.png", [1], title)
    sheet(tmp_path / "b.png", [1], title)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert long.shape[1] > short.shape[1]
    assert (long[:, -8:] == 255).all()  # nothing is cut off


def test_the_step_draws_a_sheet_for_each_concept_without_slow_imports(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    settings = {"concepts": ["ship", "B/C"], "segmenters": ["clipseg", "full-frame"]}
    counts = [1, 0, 2, 1], [1, 1, 1, 1]
    titles = "ship: masks by clipseg, not found in 1 of 4 images", "B/C: masks by full-frame"
    images = [[np.full((32, 32, 3), 200 - 50 * k, np.uint8)] * 4 for k in range(2)]
    masks = [[255 * blob(32, 32, seed=4 * k + i).astype(np.uint8) for i in range(4)] for k in range(2)]
    rows = some_rows.set_index(some_rows.index + 5)
    archives = {name: [tmp_path / slug / f"{name}.zip" for slug in ("ship", "b-c")] for name in ("images", "masks")}
    for k in range(2):
        write_shard(archives["images"][k], rows, images[k])
        write_shard(archives["masks"][k], rows.assign(found=counts[k]), masks[k])
    run = subprocess.run(
        [sys.executable, "-X", "importtime"]
        + step_command("mask_sheets", settings, archives, {"sheets": tmp_path / "sheets"})[1:],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
    )
    assert run.returncode == 0, run.stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in run.stderr.splitlines() if line.startswith("import time")}
    assert {"PIL.Image", "numpy", "lethe.pictures.contact_sheets"} <= imported
    assert not imported & {"torch", "pandas", "matplotlib.pyplot", "scipy", "transformers"}
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["b-c.png", "ship.png"]
    for k, slug in enumerate(("ship", "b-c")):
        mask_sheet(tmp_path / "wanted.png", images[k], [mask > 127 for mask in masks[k]], counts[k], title=titles[k])
        drawn = tmp_path / "sheets" / f"{slug}.png"
        assert drawn.read_bytes() == (tmp_path / "wanted.png").read_bytes()
