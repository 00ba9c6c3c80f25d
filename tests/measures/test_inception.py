"""Inception features: those that clean-fid computes of the same folders of images, with the same network.

The network is the stand-in of tests/inceptions.py.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid import fid
from PIL import Image

from bad_input import PICKLE
from conftest import CPU
from inceptions import Layers, drawn, features_by_hand, network_by_hand, save_network
from lethe.files.shards import picture_names, read_pictures, write_shard
from lethe.measures import inception
from lethe.measures.inception import FILE, Extractor, load, measure
from lethe.plugins import manifest
from lethe.tables import protocols

SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as k-diffusion checks the same file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "a network.pt"
    return save_network(path)


@pytest.fixture(scope="module")
def model(weights: Path) -> Extractor:
    return load(settings_of(weights), CPU)


def settings_of(weights: Path | None) -> dict:
    return {"weights": weights and str(weights), "sha256": weights and hashlib.sha256(weights.read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("pictures")
    return drawn(where / "one", 40, 1, 0.3), drawn(where / "other", 33, 2, 0.9)


def features_of(model: Extractor, folder: Path, **more: int) -> np.ndarray:
    names = picture_names(folder)
    columns = measure(model, read_pictures(folder, names), pd.DataFrame({"name": names}), **more)
    assert list(columns) == ["features"]
    return columns["features"]


def test_features_are_those_of_clean_fid(
    model: Extractor, weights: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in folders:
        got = features_of(model, folder)
        assert np.array_equal(got, features_by_hand(weights, folder, tmp_path))
        assert got.dtype == np.float32
        assert got.shape == (len(picture_names(folder)), 2048)
        assert got.std(axis=0).mean() > 0.01  # pictures differ
        assert np.allclose(features_of(model, folder, batch=7), got, atol=1e-5)


def test_another_resize_would_be_another_feature(model: Extractor, folders: tuple[Path, Path]) -> None:
    """The comparison sees how pictures are resized: rounded to whole numbers they give others."""
    name = "000000.png"
    with Image.open(folders[0] / name) as image:
        image = image.convert("RGB")
        rounded = np.asarray(image.resize((299, 299), Image.BICUBIC))
        right, wrong = (
            measure(model, iter([pixels]), pd.DataFrame({"name": [name]}))["features"]
            for pixels in (np.asarray(image), rounded)
        )
    assert 1e-6 < abs(right - wrong).max() < 0.05


def test_distances_are_those_of_clean_fid(
    model: Extractor, weights: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole way, from two folders to numbers; of the first 30 features, as FID needs more images than those."""
    few = torch.nn.Module()
    few.forward = lambda pixels: network(pixels)[:, :30]
    network = network_by_hand(weights, tmp_path)
    how = dict(num_workers=0, batch_size=64, device=CPU, verbose=False)
    of_folders = fid.compute_fid(*map(str, folders), mode="clean", custom_feat_extractor=few.forward, **how)
    one, other = (features_of(model, folder)[:, :30] for folder in folders)
    assert protocols.fid(one, other) == pytest.approx(of_folders, rel=1e-3)
    assert of_folders > 1e-3

    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_, **__: network)
    before = np.random.get_state()
    np.random.seed(0)
    of_folders = fid.compute_kid(*map(str, folders), mode="clean", **how)
    np.random.set_state(before)
    one, other = (features_of(model, folder) for folder in folders)
    assert protocols.kid(one, other) == pytest.approx(of_folders, rel=1e-3)
    assert of_folders > 1e-3


def test_what_is_measured_of_a_shard_is_what_clean_fid_reads_of_it(
    model: Extractor, weights: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    names = picture_names(folders[0])[:5]
    images = list(read_pictures(folders[0], names))
    rows = pd.DataFrame({"type": "", "prompt": list("abcde"), "evaluation_seed": 1}).rename_axis("row")
    write_shard(tmp_path / "shard.zip", rows, images)
    got = measure(model, read_pictures(tmp_path / "shard.zip", names), rows)["features"]
    want = features_by_hand(weights, tmp_path / "shard.zip", tmp_path)  # in an order of its own
    assert np.array_equal(got[np.lexsort(got.T)], want[np.lexsort(want.T)])


def test_a_feature_that_is_no_number_is_refused(model: Extractor, folders: tuple[Path, Path]) -> None:
    class Broken(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(len(pixels))[:, None] == 1, torch.nan, pixels.mean((1, 2, 3))[:, None])

    with pytest.raises(ValueError, match=r"Inception features: 1 of 40 .* the first for 000001\.png; .* download it"):
        features_of(Extractor(Broken(), CPU), folders[0])


# The file


def test_a_file_of_another_content_is_not_run(weights: Path) -> None:
    with pytest.raises(ValueError, match=rf"its SHA-256 is {settings_of(weights)['sha256']}, not {SHA256} as .*nvidia"):
        load({"weights": str(weights), "sha256": SHA256}, CPU)
    assert isinstance(load({"weights": str(weights), "sha256": None}, CPU), Extractor)


@pytest.mark.parametrize("content", [b"", b"a page that says 404", PICKLE])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"x\.pt: this is no TorchScript network of clean-fid's \(.+\); put there what"
    ):
        load({"weights": str(path), "sha256": None}, CPU)
    assert [found.name for found in tmp_path.iterdir()] == ["x.pt"]


def test_a_program_without_the_layers_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Layers()).save(str(tmp_path / "x.pt"))
    with pytest.raises(ValueError, match=r"x\.pt: this is no TorchScript network of clean-fid's \(.*layers"):
        load({"weights": str(tmp_path / "x.pt"), "sha256": None}, CPU)


def test_without_a_file_it_is_fetched_and_kept_where_clean_fid_keeps_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept" / FILE
    kept.parent.mkdir()
    monkeypatch.setattr(inception, "KEPT", kept)
    monkeypatch.setattr(inception, "inception_url", weights.as_uri())
    settings = settings_of(weights) | {"weights": None}
    load(settings, CPU)
    assert [path.read_bytes() for path in kept.parent.iterdir()] == [weights.read_bytes()]
    monkeypatch.setattr(inception, "inception_url", "file:///nowhere/x.pt")
    load(settings, CPU)
    kept.write_bytes(b"half of it")
    with pytest.raises(ValueError, match=rf"{FILE}: its SHA-256 is "):
        load(settings, CPU)
    kept.unlink()
    with pytest.raises(ValueError, match=rf"{FILE}: there is no .*nowhere/x\.pt.*; fetch it where .* weights name"):
        load(settings, CPU)
    assert list(kept.parent.iterdir()) == []


def test_what_comes_instead_of_the_network_is_not_kept(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "KEPT", tmp_path / FILE)
    monkeypatch.setattr(inception, "inception_url", weights.as_uri())
    with pytest.raises(ValueError, match="its SHA-256 is .* not what was expected"):
        load({"weights": None, "sha256": SHA256}, CPU)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_clean_fid_says() -> None:
    from cleanfid.downloads_helper import inception_url

    said = manifest("measures", "inception")
    assert said.settings["properties"]["weights"]["from"] == inception_url
    assert said.settings["properties"]["sha256"]["default"] == SHA256
    assert said.more["dimensions"] == 2048
    source = Path(fid.__file__).with_name("features.py").read_text()
    assert re.search(r'path = .* else "/tmp"', source)
    assert str(inception.KEPT) == f"/tmp/{FILE}"
