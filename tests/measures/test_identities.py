"""Celebrities: the classifier's files read back, a face as it sees it in plain numpy, and whom a photograph shows.

The classifier's weights here are random, with the names and shapes of those that GIPHY published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from torchvision.models import resnet50

from bad_input import PICKLE
from conftest import CPU
from lethe.config.schema import defaults_of
from lethe.measures import faces
from lethe.measures.identities import (
    LABELS,
    WEIGHTS,
    Recogniser,
    face_pixels,
    load,
    measure,
    probabilities,
    read_classifier,
    read_labels,
)
from lethe.measures.stored import read_measures, write_measure
from lethe.plugins import manifest
from photographs import picture

FACES = defaults_of(manifest("measures", "faces").settings)
NAMES = ["Ada_Lovelace_[2]", "Émile_Zola_[14]", "Jean-Luc_Godard_[3]", "AC/DC_[1]", "Zoë_[9]"]
SORTED = ["AC/DC_[1]", "Ada_Lovelace_[2]", "Jean-Luc_Godard_[3]", "Zoë_[9]", "Émile_Zola_[14]"]


@cache
def states(numbered: bool = False) -> Mapping[str, torch.Tensor]:
    """Weights by the names of the published checkpoint; parts of the stem by torchvision's names or by numbers."""
    classes = len(NAMES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = resnet50()
        for part in stem.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
        named = stem.state_dict() if not numbered else torch.nn.Sequential(*list(stem.children())[:-1]).state_dict()
        found = {f"model.stem.{name}": value for name, value in named.items() if not name.startswith("fc.")}
        found |= {"model.fc1.weight": torch.randn(256, 2048) * 1e-4, "model.fc1.bias": torch.randn(256) * 0.1}
        found |= {"model.fc2.weight": torch.randn(classes, 256) * 0.05, "model.fc2.bias": torch.randn(classes) * 0.1}
        return found | {"center_loss.centers": torch.randn(classes, 256)}


def hollow() -> dict[str, torch.Tensor]:
    """The same, all zeros, in a few bytes."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in states().items()}


def write_resources(folder: Path, state: Mapping[str, torch.Tensor], labels: list[str] = NAMES) -> Path:
    (folder / WEIGHTS).parent.mkdir(parents=True)
    torch.save({"model_state": state, "epoch": 3}, folder / WEIGHTS)
    (folder / LABELS).write_text("label,count\n" + "".join(f"{label},5\n" for label in labels))
    return folder


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(tmp_path_factory.mktemp("giphy") / "resources", states())


@pytest.fixture(scope="module")
def model(resources: Path) -> Recogniser:
    """The classifier without a detector."""
    classifier = read_classifier(resources / WEIGHTS, len(NAMES), sha256=None)
    return Recogniser(None, classifier, read_labels(resources / LABELS), 0.2, CPU)


# The classifier


def by_hand(state: Mapping[str, torch.Tensor], crops: np.ndarray) -> np.ndarray:
    """Probabilities in float64 by plain algebra behind torchvision's network."""
    stem = resnet50()
    stem.fc = torch.nn.Identity()
    stem.load_state_dict(
        {n.removeprefix("model.stem."): v for n, v in state.items() if n.startswith("model.stem.")}, strict=True
    )
    with torch.no_grad():
        found = stem.double().eval()(torch.from_numpy(crops).double()).numpy()
    for layer in ("fc1", "fc2"):
        weight, bias = (state[f"model.{layer}.{part}"].double().numpy() for part in ("weight", "bias"))
        found = found @ weight.T + bias
    powers = np.exp(found - found.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_are_the_networks_softmax(model: Recogniser) -> None:
    crops = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    crops[1] *= 0.2
    got = probabilities(model, crops)
    want = by_hand(states(), crops)
    assert got.dtype == np.float32
    assert np.allclose(got, want, atol=1e-5)
    assert abs(want[0] - want[1]).max() > 1e-3


def test_the_stem_may_be_numbered(tmp_path: Path, model: Recogniser) -> None:
    folder = write_resources(tmp_path / "numbered", states(numbered=True))
    other = read_classifier(folder / WEIGHTS, len(NAMES), sha256=None).state_dict()
    for name, value in model.classifier.state_dict().items():
        assert torch.equal(other[name], value), name


def test_weights_have_the_published_names_and_shapes(model: Recogniser) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.classifier.state_dict().items()}
    assert {name.split(".")[0] for name in shapes} == {"stem", "fc1", "fc2"}
    assert (shapes["stem.conv1.weight"], shapes["stem.layer4.2.conv3.weight"]) == ((64, 3, 7, 7), (2048, 512, 1, 1))
    assert (shapes["fc1.weight"], shapes["fc2.weight"]) == ((256, 2048), (len(NAMES), 256))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda state: state.pop("model.fc1.bias"), r"it lacks model\.fc1\.bias, and the network for the 5 labels of"),
        (
            lambda state: state.pop("model.stem.layer2.0.conv1.weight"),
            r"it lacks model\.stem\.layer2\.0\.conv1\.weight",
        ),
        (
            lambda state: state.update({"model.fc2.weight": torch.zeros(7, 256)}),
            r"it holds model\.fc2\.weight of the shape \[7, 256\], and the network for .* has one of \[5, 256\]; take",
        ),
        (lambda state: state.update({"model.fc1.weight": "x"}), r"it holds model\.fc1\.weight of the shape \[\], and"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, spoil, told: str) -> None:
    state = hollow()
    spoil(state)
    folder = write_resources(tmp_path / "x", state)
    with pytest.raises(ValueError, match=rf"best_model_states\.pkl: {told}"):
        read_classifier(folder / WEIGHTS, 5, sha256=None)


@pytest.mark.parametrize("content", [PICKLE, b"", b"<html>404</html>", "list", "no state"])
def test_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save([1] if content == "list" else {"epoch": 1}, path)
    with pytest.raises(
        ValueError, match=r"x\.pkl: this is no checkpoint of tensors alone, with a model_state, and .*\)"
    ):
        read_classifier(path, 5, sha256=None)
    assert [found.name for found in tmp_path.iterdir()] == ["x.pkl"]


def test_another_content_than_that_of_the_checksum_is_refused(resources: Path) -> None:
    digest = hashlib.sha256((resources / WEIGHTS).read_bytes()).hexdigest()
    assert read_classifier(resources / WEIGHTS, len(NAMES), sha256=digest)
    with pytest.raises(ValueError, match=rf"its SHA-256 is {digest}, not {'0' * 64} as the measure's key sha256 says"):
        read_classifier(resources / WEIGHTS, len(NAMES), sha256="0" * 64)


@pytest.mark.parametrize("header", ["label,count", "number,label"])
def test_labels_are_sorted(tmp_path: Path, header: str) -> None:
    first = header.startswith("label")
    rows = "".join(f"{name},{k}\n" if first else f"{k},{name}\n" for k, name in enumerate(NAMES))
    (tmp_path / "labels.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    assert read_labels(tmp_path / "labels.csv") == SORTED


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("label\n", r"labels\.csv: it has no column of labels such as Name_Surname_\[id\]"),
        ("label\nAda\n", r"labels\.csv: it has no column of labels"),
        ("label\nAda_[1]\nAda_[1]\n", r"labels\.csv: the label 'Ada_\[1\]' is there twice"),
        ("", r"labels\.csv: it is empty"),
    ],
)
def test_a_table_without_labels_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_labels(tmp_path / "labels.csv")


# A face as it sees it


def triangle(length: int, side: int) -> np.ndarray:
    """Weights `[side, length]` of the bilinear filter: a triangle about where a pixel comes from, at least 2 wide."""
    scale = length / side
    centres, pixels = (np.arange(side) + 0.5) * scale, np.arange(length) + 0.5
    weights = np.maximum(0, 1 - abs(pixels - centres[:, None]) / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((20.0, 30.0, 70.0, 90.0), (15, 24, 75, 96)),  # smaller than the network's face
        ((100.5, 60.25, 400.75, 380.5), (70, 28, 430, 400)),  # larger, and cut off below
        ((-8.0, -3.0, 30.0, 40.0), (0, 0, 33, 44)),
        ((480.0, 300.0, 530.0, 380.0), (475, 292, 500, 388)),
    ],
)
def test_a_face_is_cut_out_wider_and_resized(box: tuple[float, ...], corners: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    left, top, right, bottom = corners
    part = image[top:bottom, left:right].astype(np.float64)
    want = triangle(bottom - top, 224) @ part.transpose(2, 0, 1) @ triangle(right - left, 224).T / 255
    got = face_pixels(image, np.array(box, np.float32), margin=0.2)
    assert (got.dtype, got.shape) == (np.float32, (3, 224, 224))
    assert abs(got - want).max() < 1.6 / 255  # Pillow rounds to whole numbers, once for each direction
    assert want.max() - want.min() > 0.4


def test_without_a_margin_it_is_the_box() -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    got = face_pixels(image, np.array([10, 20, 234, 244]), margin=0.0)
    assert np.array_equal(got, image[20:244, 10:234].astype(np.float32).transpose(2, 0, 1) / 255)


@pytest.mark.parametrize("box", [(-50, -50, -20, -20), (310, 10, 350, 60), (10, 310, 60, 350)])
def test_a_box_outside_the_image_is_a_pixel_of_its_edge(box: tuple[int, ...]) -> None:
    got = face_pixels(np.full((300, 300, 3), 51, np.uint8), np.array(box), margin=0.2)
    assert np.allclose(got, 0.2)


# The measure


def boxes_of(*found: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(found, np.float32).reshape(-1, 4), np.linspace(0.9, 0.8, len(found)).astype(np.float32)


def test_an_image_has_the_label_of_its_first_face(
    model: Recogniser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (60, 60, 3), dtype=np.uint8) for _ in range(4)]
    first, second = (5.0, 5.0, 40.0, 50.0), (0.0, 0.0, 30.0, 30.0)
    found = iter([boxes_of(), boxes_of(first, second), boxes_of(second), boxes_of()])
    monkeypatch.setattr(faces, "faces_in", lambda detector, image: next(found))
    rows = pd.DataFrame({"prompt": list("abcd")}).rename_axis("row")
    columns = measure(model, iter(images), rows, batch=1)
    assert columns["faces"] == [0, 2, 1, 0]
    want = by_hand(
        states(),
        np.stack([face_pixels(images[k], np.array(box), margin=0.2) for k, box in ((1, first), (2, second))]),
    )
    assert columns["identity"] == ["", *(SORTED[index] for index in want.argmax(axis=1)), ""]
    assert np.isnan([columns["probability"][k] for k in (0, 3)]).all()
    assert columns["probability"][1:3] == pytest.approx(want.max(axis=1), abs=1e-5)

    write_measure(tmp_path / "some", rows, columns, {})
    none = {name: values[:1] for name, values in columns.items()}
    write_measure(tmp_path / "none", rows.iloc[:1], none, {})
    schemas = [pyarrow.parquet.read_schema(tmp_path / part) for part in ("some", "none")]
    assert schemas[0].equals(schemas[1])
    assert list(read_measures([tmp_path / "none", tmp_path / "some"])["identity"]) == ["", *columns["identity"]]


def test_weights_that_are_no_numbers_are_told_of_the_image(model: Recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "faces_in", lambda detector, image: boxes_of((5.0, 5.0, 40.0, 50.0)))
    spoilt = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    model.classifier.fc2.bias.data.fill_(float("nan"))
    try:
        with pytest.raises(ValueError, match=r"probabilities of labels: 1 of 1 .* for 000000\.png; .* download"):
            measure(model, iter([np.zeros((60, 60, 3), np.uint8)]), pd.DataFrame({"prompt": ["a"]}))
    finally:
        model.classifier.load_state_dict(spoilt)


def test_photographs_with_and_without_a_face(resources: Path) -> None:
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch, which is optional, is not installed")
    settings = defaults_of(manifest("measures", "identities").settings) | {"resources": str(resources)}
    model = load(settings, CPU)
    images = [picture("chelsea", "RGB"), picture("astronaut", "RGB")]
    columns = measure(model, iter(images), pd.DataFrame({"name": ["a", "b"]}))
    assert columns["faces"] == [0, 1]
    assert columns["identity"][0] == ""
    ((box,), _) = faces.faces_in(faces.load(FACES, CPU), images[1])
    want = by_hand(states(), face_pixels(images[1], box, margin=0.2)[None])[0]
    assert columns["identity"][1] == SORTED[want.argmax()]
    assert columns["probability"][1] == pytest.approx(want.max(), abs=1e-5)


def test_faces_are_looked_for_as_by_the_measure_faces() -> None:
    assert defaults_of(manifest("measures", "identities").settings).items() >= FACES.items()
