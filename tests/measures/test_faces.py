"""Faces in photographs: those that facenet-pytorch finds, called by hand on the PNG files.

The photographs are of scikit-image's wheel, free of rights. Two have a face.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from PIL import Image

from conftest import CPU
from lethe.config.schema import defaults_of
from lethe.measures.faces import RELEASE, faces_in, load, measure
from lethe.measures.stored import read_measures, write_measure
from lethe.plugins import manifest
from photographs import picture
from running import ROOT

FOUND = {"astronaut": 1, "camera": 1, "chelsea": 0, "coffee": 0}  # by picture: how many faces
SIDES = ("face_left", "face_top", "face_right", "face_bottom")
DEFAULTS = defaults_of(manifest("measures", "faces").settings)


@pytest.fixture(scope="module")
def facenet() -> Any:
    """The library."""
    return pytest.importorskip("facenet_pytorch", reason="facenet-pytorch, which is optional, is not installed")


@pytest.fixture(scope="module")
def model(facenet: Any) -> Any:
    return load(DEFAULTS, CPU)


@pytest.fixture(scope="module")
def by_hand(facenet: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[np.ndarray], list[tuple]]:
    """`by_hand(pixels)`: scores and boxes that the library's detector finds in a file, the settings written out."""
    detector = facenet.MTCNN(
        min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709, select_largest=False, keep_all=True
    )
    path = tmp_path_factory.mktemp("files") / "image.png"

    def detect(pixels: np.ndarray) -> list[tuple]:
        Image.fromarray(pixels).save(path)
        with Image.open(path) as image:
            boxes, scores = detector.detect(image)
        return [] if boxes is None else [(score, *box) for score, box in zip(scores, boxes, strict=True)]

    return detect


def rows_of(count: int) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"{k}.png" for k in range(count)]}).rename_axis("row")


def measured(model: Any, *images: np.ndarray) -> list[list[tuple]]:
    """What the measure says of each image: score and box of each face."""
    columns = measure(model, iter(images), rows_of(len(images)))
    assert list(columns) == ["faces", "face_score", *SIDES]
    parts = [columns[name] for name in ("face_score", *SIDES)]
    assert all(values.dtype == np.float32 for column in parts for values in column)
    found = [list(zip(*of, strict=True)) for of in zip(*parts, strict=True)]
    assert columns["faces"] == [len(of) for of in found]
    return found


def test_faces_are_those_of_the_library_on_the_files(model: Any, by_hand: Callable) -> None:
    images = [picture(name, "RGB") for name in FOUND]
    got = measured(model, *images)
    assert got == [by_hand(image) for image in images]
    assert [len(of) for of in got] == list(FOUND.values())
    ((score, *box),) = got[0]
    assert score == pytest.approx(1, abs=1e-4)
    assert box == pytest.approx([181, 62, 268, 172], abs=2)


def test_blue_first_would_be_another_number(model: Any) -> None:
    """The comparison with files sees the order of colours."""
    image = picture("astronaut", "RGB")
    ((_, *right),), ((_, *wrong),) = measured(model, image, np.ascontiguousarray(image[..., ::-1]))
    assert np.abs(np.subtract(right, wrong)).max() > 0.5


def test_faces_stand_in_the_order_of_their_scores(model: Any, by_hand: Callable) -> None:
    """Not the largest first, which is what the library does by itself."""
    both = np.hstack([picture("camera", "RGB")[60:260, 120:320], picture("astronaut", "RGB")[20:220, 120:320]])
    (got,) = measured(model, both)
    assert got == by_hand(both)
    (first, *small), (second, *large) = got
    assert first > second
    assert small[2] - small[0] < large[2] - large[0]


def test_company_changes_nothing(model: Any) -> None:
    images = [picture(name, "RGB") for name in ("camera", "chelsea", "astronaut")]
    assert measured(model, *images[::-1]) == measured(model, *images)[::-1]
    assert [measured(model, image)[0] for image in images] == measured(model, *images)


@pytest.mark.parametrize("minimum", [20, 21, 49, 107])
def test_an_image_smaller_than_a_face_has_none(facenet: Any, minimum: int) -> None:
    model = load(DEFAULTS | {"minimum_size": minimum}, CPU)
    for side in (1, 8, minimum - 1, minimum, minimum + 1):
        for shape in ((side, 130, 3), (130, side, 3)):
            boxes, scores = faces_in(model, np.zeros(shape, np.uint8))
            assert (boxes.shape, scores.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({"minimum_size": 400}, 0),
        ({"thresholds": {"proposed": 0.6, "refined": 0.7, "found": 0.9999999}}, 0),
        ({"thresholds": {"proposed": 0.6, "refined": 0.9999999, "found": 0.7}}, 0),
        ({"thresholds": {"proposed": 0.9999999, "refined": 0.7, "found": 0.7}}, 0),
        ({"factor": 0.1}, None),
    ],
)
def test_settings_reach_the_library(facenet: Any, model: Any, own: dict, found: int | None) -> None:
    before, after = (faces_in(of, picture("astronaut", "RGB")) for of in (model, load(DEFAULTS | own, CPU)))
    assert len(before[1]) == 1
    assert len(after[1]) == found if found is not None else not np.array_equal(before[0], after[0])


def test_stored_faces_come_back(model: Any, tmp_path: Path) -> None:
    images = {"some": [picture("astronaut", "RGB"), picture("coffee", "RGB")], "none": [picture("chelsea", "RGB")]}
    for part, of in images.items():
        write_measure(tmp_path / part, rows_of(len(of)), measure(model, iter(of), rows_of(len(of))), {})
    schemas = [pyarrow.parquet.read_schema(tmp_path / part) for part in images]
    assert schemas[0].equals(schemas[1])
    back = read_measures([tmp_path / part for part in images])
    assert list(back["faces"]) == [1, 0, 0]
    ((score, *box),) = measured(model, picture("astronaut", "RGB"))[0]
    assert [back[name][0][0] for name in ("face_score", *SIDES)] == [score, *box]


def test_no_image_gives_empty_columns(model: Any) -> None:
    assert measure(model, iter([]), rows_of(0)) == {name: [] for name in ("faces", "face_score", *SIDES)}


def test_a_missing_package_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    told = r"looking for faces needs a package that is optional \(.*\); run pip install -c .* facenet-pytorch$"
    with pytest.raises(ValueError, match=told):
        load(DEFAULTS, CPU)


def test_another_release_is_refused(facenet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.6.0")
    with pytest.raises(ValueError, match=r"by facenet-pytorch 2\.5\.3, and 2\.6\.0 is installed; run pip install "):
        load(DEFAULTS, CPU)


def test_one_release_is_pinned_everywhere() -> None:
    for file in ("pyproject.toml", "envs/constraints.txt", "envs/requirements-development.txt"):
        assert re.findall(r"\bfacenet-pytorch[=<>~!]+([\w.]+)", (ROOT / file).read_text()) == [RELEASE]
    assert f"facenet-pytorch {RELEASE}" in manifest("measures", "faces").about


def test_the_optional_package_is_imported_by_its_measure_alone() -> None:
    files = [path for path in (ROOT / "workflow").rglob("*.py") if "facenet_pytorch" in path.read_text()]
    assert [path.relative_to(ROOT).as_posix() for path in files] == ["workflow/lethe/measures/faces.py"]
