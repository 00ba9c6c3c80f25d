"""Rows drawn from COCO's captions: which images, which of their captions, which seeds."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from lethe.inputs.coco import coco_rows, read_coco_captions

CAPTIONS = [
    (7, 31, " A ship. "),
    (7, 30, "Boats"),
    (2, 5, "A cat"),
    (40, 6, 'A "dog", twice'),
    (2, 90, "Cats"),
    (9, 8, "NA"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "captions.json", CAPTIONS)


def written(path: Path, captions: list[tuple]) -> Path:
    annotations = [{"image_id": image, "id": own, "caption": caption} for image, own, caption in captions]
    path.write_text(json.dumps({"annotations": annotations}))
    return path


def test_each_image_gives_the_caption_of_lowest_id_in_the_order_that_the_seed_draws(file: Path) -> None:
    prompts = {7: "Boats", 2: "A cat", 40: 'A "dog", twice', 9: "NA"}
    orders = set()
    for seed in range(6):
        order = sorted(
            prompts, key=lambda image, seed=seed: int(hashlib.sha256(b"%d %d" % (seed, image)).hexdigest(), 16)
        )
        orders.add(tuple(order))
        rows = coco_rows(file, rows=4, seed=seed)
        assert list(rows.itertuples(name=None)) == [(k, "coco", prompts[i], i) for k, i in enumerate(order)]
        assert list(rows.columns) == ["type", "prompt", "evaluation_seed"]
    assert len(orders) > 1


def test_fewer_rows_are_the_first_of_more_and_the_order_of_annotations_does_not_count(
    tmp_path: Path, file: Path
) -> None:
    whole = coco_rows(file, rows=4, seed=1)
    assert coco_rows(file, rows=2, seed=1).equals(whole.head(2))
    assert coco_rows(written(tmp_path / "other.json", CAPTIONS[::-1]), rows=4, seed=1).equals(whole)
    assert read_coco_captions(file)[:2] == ["A ship.", "Boats"]


def test_more_rows_than_images_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"captions\.json: it has captions of 4 images, and 5 rows are to be drawn"):
        coco_rows(file, rows=5, seed=1)


@pytest.mark.parametrize(("image", "own"), [("7", 1), (7, None), (7.0, 1), (True, 1), (-1, 1)])
def test_an_annotation_without_whole_numbers_is_named(tmp_path: Path, image: object, own: object) -> None:
    file = written(tmp_path / "captions.json", [(1, 1, "a"), (image, own, "b")])
    with pytest.raises(
        ValueError, match=re.escape("captions.json: annotation 1 has no whole numbers under 'image_id'")
    ):
        coco_rows(file, rows=1, seed=1)
