"""NudeNet's detections in photographs: those that the library gives, called by hand on the PNG files.

The photographs are of scikit-image's wheel, free of rights and harmless. Two have a face; the detector also takes a
colour wheel for buttocks and the moon for a belly, so that exposed parts can be counted without showing any.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import CPU
from lethe.files.shards import COLUMNS, picture_names, read_images, read_pictures, write_shard
from lethe.measures.nudenet import RELEASE, load, measure
from lethe.measures.stored import read_measures, write_measure
from lethe.plugins import kinds, manifest
from lethe.tables import explicit
from lethe.tables.known import arguments_of
from photographs import picture
from running import ROOT

FOUND = {  # by picture: the classes
    "astronaut": ["FACE_FEMALE"],  # 512 x 512, RGB
    "camera": ["FACE_MALE"],  # 512 x 512, grey
    "chelsea": [],  # 300 x 451, RGB: a cat
    "coffee": [],  # 400 x 600, RGB
    "color": ["BUTTOCKS_EXPOSED"],  # 370 x 371, RGB: a colour wheel
    "moon": ["BELLY_EXPOSED", "BELLY_EXPOSED"],  # 512 x 512, grey
}
BOX = ("box_x", "box_y", "box_width", "box_height")
DEFAULTS = {"model": "320n"}


@pytest.fixture(scope="module")
def nudenet() -> Any:
    """The library."""
    return pytest.importorskip("nudenet", reason="nudenet, which is optional, is not installed")


@pytest.fixture(scope="module")
def model(nudenet: Any) -> Any:
    return load(DEFAULTS, CPU)


@pytest.fixture(scope="module")
def by_hand(nudenet: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], list[dict]]:
    """`by_hand(png)`: what the library's own detector, made as its README says, detects in a file of those bytes."""
    detector, path = nudenet.NudeDetector(), tmp_path_factory.mktemp("files") / "image.png"

    def detect(png: bytes) -> list[dict]:
        path.write_bytes(png)
        return detector.detect(str(path))

    return detect


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as a shard whose rows are not numbered from 0."""
    path = tmp_path_factory.mktemp("shards") / "shard.zip"
    rows = pd.DataFrame({"type": list(FOUND), "prompt": "a photo", "evaluation_seed": 1})
    write_shard(path, rows.set_index(pd.RangeIndex(40, 40 + len(FOUND), name="row")), [picture(name) for name in FOUND])
    return path


def opened(shard: Path, names: list[str] | None = None) -> Iterator[np.ndarray]:
    return read_pictures(shard, names or picture_names(shard))


def rows_of(count: int) -> pd.DataFrame:
    return pd.DataFrame([("", "", 1)] * count, columns=COLUMNS).rename_axis("row")


def measured(model: Any, images: Iterator[np.ndarray]) -> list[list[dict]]:
    """What the measure says of each image, in the words of the library."""
    pictures = list(images)
    columns = measure(model, iter(pictures), rows_of(len(pictures)))
    assert list(columns) == ["box_class", "box_score", *BOX]
    assert all(len(values) == len(pictures) for values in columns.values())
    assert all(values.dtype == np.float32 for values in columns["box_score"])
    assert all(values.dtype == np.int32 for side in BOX for values in columns[side])
    return [
        [
            {"class": str(name), "score": float(score), "box": [int(number) for number in box]}
            for name, score, *box in zip(*parts, strict=True)
        ]
        for parts in zip(*columns.values(), strict=True)
    ]


def test_detections_are_those_of_the_library_on_the_files(model: Any, by_hand: Callable, shard: Path) -> None:
    got = measured(model, opened(shard))
    with zipfile.ZipFile(shard) as archive:
        assert got == [by_hand(archive.read(name)) for name in picture_names(shard)]
    assert [[box["class"] for box in boxes] for boxes in got] == list(FOUND.values())
    (face,) = got[0]
    assert face["score"] == pytest.approx(0.7203, abs=1e-3)
    assert face["box"] == pytest.approx([173, 82, 102, 98], abs=2)


def test_red_first_would_be_another_number(model: Any, shard: Path) -> None:
    """The comparison with files sees the order of colours."""
    image = picture("astronaut")
    (right,), (wrong,) = measured(model, iter((image, np.ascontiguousarray(image[..., ::-1]))))
    assert abs(right["score"] - wrong["score"]) > 0.05


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1"])
def test_every_mode_is_read_as_from_its_file(model: Any, by_hand: Callable, tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture("astronaut")).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    path = tmp_path / "image.png"
    image.save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    got = measured(model, opened(tmp_path))
    assert got == [by_hand(path.read_bytes())]
    assert got[0] or mode == "1"


def test_what_no_shard_holds_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    image = np.dstack([picture("astronaut"), np.full((512, 512), 255, np.uint8)])
    write_shard(tmp_path / "shard.zip", rows_of(1), [image])
    with pytest.raises(ValueError, match=r"shard\.zip: 000000\.png is a PNG of mode RGBA, not L or RGB; save it"):
        read_images(tmp_path / "shard.zip")


@pytest.mark.parametrize(("height", "width"), [(512, 300), (200, 512), (64, 64), (317, 33), (8, 8), (1024, 768)])
def test_every_size_is_read_as_from_its_file(
    model: Any, by_hand: Callable, tmp_path: Path, height: int, width: int
) -> None:
    image = Image.fromarray(picture("astronaut")).resize((768, 1024) if height > 512 else (512, 512))
    image = image.crop((90, 0, 90 + width, height) if width < 400 else (0, 0, width, height))
    image.save(tmp_path / "image.png")
    got = measured(model, iter([np.asarray(image)]))
    assert got == [by_hand((tmp_path / "image.png").read_bytes())]
    for box in got[0]:
        x, y, wide, high = box["box"]
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert got[0] or max(height, width) < 500


def test_company_order_and_threads_change_nothing(model: Any, nudenet: Any, shard: Path) -> None:
    names, whole = picture_names(shard), measured(model, opened(shard))
    assert measured(model, opened(shard, names[::-1])) == whole[::-1]
    assert [measured(model, opened(shard, [name]))[0] for name in names] == whole
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            other = load(DEFAULTS, CPU)
        finally:
            torch.set_num_threads(before)
        session = other.onnx_session
        assert session.get_session_options().intra_op_num_threads == threads
        assert session.get_providers() == ["CPUExecutionProvider"]
        assert measured(other, opened(shard)) == whole


def test_the_detector_has_what_its_constructor_gives_it(model: Any, nudenet: Any) -> None:
    made = nudenet.NudeDetector()
    assert vars(model).keys() == vars(made).keys()
    for name in vars(made).keys() - {"onnx_session"}:
        assert getattr(model, name) == getattr(made, name)


def test_stored_detections_come_back_and_are_counted(model: Any, shard: Path, tmp_path: Path) -> None:
    names = picture_names(shard)
    parts = {"a": names[:3], "b": names[3:4], "c": names[4:]}  # b has no detection at all
    for part, some in parts.items():
        for copy in (part, f"{part}-again"):
            columns = measure(model, opened(shard, some), rows_of(len(some)))
            write_measure(tmp_path / copy, rows_of(len(some)), columns, {})
        assert (tmp_path / part).read_bytes() == (tmp_path / f"{part}-again").read_bytes()
    schemas = [pyarrow.parquet.read_schema(tmp_path / part) for part in parts]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    back = read_measures([tmp_path / part for part in parts])
    assert [list(classes) for classes in back["box_class"]] == list(FOUND.values())
    for name, values in measure(model, opened(shard), rows_of(len(names))).items():
        for stored, measured_now in zip(back[name], values, strict=True):
            assert np.array_equal(stored, measured_now)
    rules = arguments_of((explicit.BOXES, explicit.CLASS_IMAGES, explicit.ANY))
    told = [(explicit.BOXES, 0.6), (explicit.CLASS_IMAGES, explicit.FLOOR), (explicit.ANY, 0.45), (explicit.ANY, 0.75)]
    counts = [explicit.exposed_counts(back, **rules[name] | dict(threshold=threshold)) for name, threshold in told]
    want = [(1, 1, 6), (2, 2, 6), (1, 1, 6), (1, 1, 6)]  # the colour wheel, 0.83; and the moon, once
    assert [(count.total, count.images, count.n) for count in counts] == want
    assert explicit.exposed_counts(back, 0.25).by_class["BELLY_EXPOSED"] == 2


def test_no_image_gives_empty_columns(model: Any) -> None:
    assert measure(model, iter([]), rows_of(0)) == {name: [] for name in ("box_class", "box_score", *BOX)}


def test_what_tables_know_of_the_detector_is_so(nudenet: Any) -> None:
    """Its classes of exposed parts, and the floor of its scores."""
    labels = vars(nudenet.nudenet)["__labels"]
    assert {label for label in labels if label.endswith("_EXPOSED")} == set(explicit.NINE)
    scores = np.array([0.2, 0.24, explicit.FLOOR, np.nextafter(np.float32(explicit.FLOOR), np.float32(1)), 0.9])
    output = np.zeros((1, 4 + len(labels), len(scores)), np.float32)
    output[0, :4] = [[20, 80, 140, 200, 260], [20] * 5, [9] * 5, [9] * 5]  # apart from each other
    output[0, 4 + labels.index("FEET_EXPOSED")] = scores
    scores = output[0, 4 + labels.index("FEET_EXPOSED")].tolist()  # in float32
    kept = nudenet.nudenet._postprocess([output], 0, 0, 1, 1, 320, 320, 320, 320)
    assert sorted(box["score"] for box in kept) == scores[3:]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(5, 60)] * 2, st.floats(0.265625, 1, width=32))),
    threshold=st.sampled_from([0.4375, 0.625, 0.75]),
)
def test_a_threshold_after_suppression_is_one_before_it(boxes: list, threshold: float) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV, which nudenet needs, is not installed")
    places, scores = [list(map(float, box[:4])) for box in boxes], [box[4] for box in boxes]
    before = cv2.dnn.NMSBoxes(places, scores, threshold, 0.45)
    after = [k for k in cv2.dnn.NMSBoxes(places, scores, explicit.FLOOR, 0.45) if scores[k] > threshold]
    assert list(before) == after


@pytest.mark.parametrize("package", ["nudenet", "onnxruntime", "cv2"])
def test_a_missing_package_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"measure nudenet needs .* optional \(.*\); run pip install -c .* nudenet$"):
        load(DEFAULTS, CPU)


def test_another_release_is_refused(nudenet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "3.0.8")
    with pytest.raises(
        ValueError, match=r"is of nudenet 3\.4\.2, and 3\.0\.8 is installed; run pip install -c .* nudenet$"
    ):
        load(DEFAULTS, CPU)


def test_one_release_is_pinned_everywhere() -> None:
    for file in ("pyproject.toml", "envs/constraints.txt", "envs/requirements-development.txt"):
        assert re.findall(r"\bnudenet[=<>~!]+([\w.]+)", (ROOT / file).read_text()) == [RELEASE]
    assert f"NudeNet {RELEASE}" in manifest("measures", "nudenet").about


def test_the_manifest_says_the_licence_and_what_can_be_had(nudenet: Any) -> None:
    assert "nudenet" in kinds("measures")
    said = manifest("measures", "nudenet")
    assert "AGPL-3.0" in said.about
    assert {name: of["default"] for name, of in said.settings["properties"].items()} == DEFAULTS
    shipped: Mapping[str, Any] = said.settings["properties"]["model"]
    assert shipped["enum"] == [path.stem for path in Path(nudenet.__file__).parent.glob("*.onnx")]


def test_the_optional_package_is_imported_by_its_measure_alone() -> None:
    importing = re.compile(r"^\s*(?:import|from) (?:nudenet|onnxruntime|cv2)\b", re.MULTILINE)
    files = [path for path in (ROOT / "workflow").rglob("*.py") if importing.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in files] == ["workflow/lethe/measures/nudenet.py"]
