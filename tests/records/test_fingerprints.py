"""What files and models are: by all of their content and nothing else; hashes that are kept until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lethe.bases.folder import loaded_files
from lethe.records.fingerprints import KeptHashes, content_hash, fingerprint, sha256_of, text_fingerprint

UNET = "unet/diffusion_pytorch_model.safetensors"


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def base(sd_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to change."""
    return Path(shutil.copytree(sd_folder, tmp_path / "base"))


def scaled(path: Path, factor: float = 1.001, *, only: str = "") -> None:
    """Change the values of a safetensors file's tensors whose names hold `only`."""
    tensors = load_file(path)
    assert any(only in name for name in tensors)
    save_file({name: t * factor if only in name else t for name, t in tensors.items()}, path, {"format": "pt"})


# Identity


@pytest.mark.parametrize("hash_of", [fingerprint, content_hash])
def test_a_touched_or_copied_folder_is_the_same(hash_of: Callable, base: Path, tmp_path: Path) -> None:
    before = hash_of(base)
    for path in base.rglob("*"):
        os.utime(path, (1, 1))
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "copy" / ".DS_Store").write_text("x")
    (tmp_path / "copy" / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / "copy" / ".cache" / "huggingface" / "weights.metadata").write_text("downloaded at 12:00")
    (tmp_path / "copy" / "empty").mkdir()
    assert hash_of(base) == hash_of(tmp_path / "copy") == before
    assert len(before) == 64


def test_the_hash_of_a_folder_sees_names_contents_and_linked_folders(base: Path, tmp_path: Path) -> None:
    seen = [content_hash(base)]

    def check() -> None:
        seen.append(content_hash(base))
        assert len(set(seen)) == len(seen)

    (base / "added.txt").touch()
    check()
    (base / "added.txt").rename(base / "renamed.txt")
    check()
    with (base / UNET).open("r+b") as file:  # the last byte
        file.seek(-1, os.SEEK_END)
        file.write(b"\x17")
    check()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("1")
    (base / "linked").symlink_to(tmp_path / "elsewhere")
    check()
    (tmp_path / "elsewhere" / "x").write_text("2")
    check()
    (base / "up").symlink_to(base)  # without an end, if it were followed
    assert content_hash(base) == seen[-1]


def test_a_name_and_a_content_cannot_stand_in_for_each_other(tmp_path: Path) -> None:
    for folder, name, content in [("a", "x", "yz"), ("b", "xy", "z")]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_bases_that_differ_in_one_weight_anywhere_differ(base: Path) -> None:
    """A file of 5 MB whose cross-attention changes in one value: what sampled hashes of a real U-Net pass by (F35)."""
    tensors = load_file(base / UNET) | {"padding": torch.zeros(1_200_000)}
    save_file(tensors, base / UNET, {"format": "pt"})
    seen = {fingerprint(base)}
    for name in sorted(tensors)[::7]:
        changed = dict(tensors)
        changed[name] = tensors[name].clone()
        changed[name].view(-1)[-1] += 1
        save_file(changed, base / UNET, {"format": "pt"})
        found = fingerprint(base)
        assert found not in seen, name
        seen.add(found)


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_every_file_that_is_loaded_counts(file: str, base: Path) -> None:
    before = fingerprint(base)
    if file.endswith(".json"):
        content = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps(content | {"added": 1}))
    else:
        scaled(base / file)
    assert fingerprint(base) != before


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "LICENSE.txt",
        "sample.png",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "v1-5-pruned.ckpt",
    ],
)
def test_what_lies_beside_does_not_count(file: str, base: Path) -> None:
    before = fingerprint(base)
    (base / file).parent.mkdir(exist_ok=True)
    (base / file).write_bytes(b"something")
    assert fingerprint(base) == before


def test_a_variant_is_what_it_holds(base: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(base, tmp_path / "half"))
    for path in half.rglob("*.safetensors"):
        save_file({k: t.half() if t.is_floating_point() else t for k, t in load_file(path).items()}, path)
    both = Path(shutil.copytree(base, tmp_path / "both"))
    for path in half.rglob("*.safetensors"):
        shutil.copy(path, (both / path.relative_to(half)).with_suffix(".fp16.safetensors"))
    assert fingerprint(both) == fingerprint(base)
    assert fingerprint(both, variant="fp16") == fingerprint(half) != fingerprint(base)


def test_a_pipeline_of_links_is_what_they_lead_to(base: Path, tmp_path: Path) -> None:
    """F02: a base put together from links to component folders, and to single files as the hub's cache has them."""
    for name in ("folders", "files"):
        (tmp_path / name).mkdir()
        shutil.copy(base / "model_index.json", tmp_path / name)
    for part in (path for path in base.iterdir() if path.is_dir()):
        (tmp_path / "folders" / part.name).symlink_to(part)
        (tmp_path / "files" / part.name).mkdir()
        for path in part.iterdir():
            (tmp_path / "files" / part.name / path.name).symlink_to(path)
    before = fingerprint(base)
    assert fingerprint(tmp_path / "folders") == fingerprint(tmp_path / "files") == before
    text = text_fingerprint(base)
    scaled(base / UNET)
    assert fingerprint(tmp_path / "folders") == fingerprint(tmp_path / "files") == fingerprint(base) != before
    assert text_fingerprint(tmp_path / "folders") == text
    scaled(base / "text_encoder/model.safetensors")
    assert text_fingerprint(tmp_path / "folders") == text_fingerprint(base) != text


def test_a_single_model_counts_by_its_files_and_no_folder_below(clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    before = fingerprint(clip_folder)
    (copy / "onnx").mkdir()
    (copy / "onnx" / "config.json").write_text("{}")
    assert fingerprint(copy) == before
    scaled(copy / "model.safetensors", only="text_projection")
    assert fingerprint(copy) != before


def test_weights_that_are_no_safetensors_count_all_the_same(clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    before = fingerprint(copy)
    (copy / "pytorch_model.bin").write_bytes(b"other")
    assert fingerprint(copy) != before


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model's folder \(it has neither model_index\.json nor config\.json\)"):
        fingerprint(tmp_path)


def test_bases_share_a_text_fingerprint_when_they_share_tokenizers_and_text_encoders(
    sd_folder: Path, sdxl_folder: Path, tmp_path: Path
) -> None:
    def changed(name: str, change: Callable[[Path], object]) -> str:
        folder = Path(shutil.copytree(sd_folder, tmp_path / name))
        change(folder)
        return text_fingerprint(folder)

    first = text_fingerprint(sd_folder)
    assert len(first) == 16
    assert changed("finetuned", lambda folder: scaled(folder / UNET)) == first
    others = [
        changed("weights", lambda folder: scaled(folder / "text_encoder/model.safetensors")),
        changed("vocabulary", lambda folder: (folder / "tokenizer/tokenizer_config.json").write_text("{}")),
        changed("settings", lambda folder: (folder / "text_encoder/config.json").write_text("{}")),
        text_fingerprint(sdxl_folder),
    ]
    assert len({first, *others}) == 1 + len(others)


# Kept hashes


class Counted:
    """Counts how often a file is really read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[str] = []
        monkeypatch.setattr("lethe.records.fingerprints.sha256_of", self)

    def __call__(self, path: Path) -> str:
        self.read.append(Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that has not changed for a minute, as far as its mtime tells."""
    (tmp_path / "weights").write_bytes(b"abc")
    return tmp_path / "weights"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock an hour on, so that files just written are settled."""
    now = time.time
    monkeypatch.setattr("lethe.records.fingerprints.time.time", lambda: now() + 3600)


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once_by_all_who_keep_hashes_in_one_place(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, kept = Counted(monkeypatch), tmp_path / "hashes.json"
    first = KeptHashes(kept)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert first(file) == first(link) == first(file) == KeptHashes(kept)(file) == hashlib.sha256(b"abc").hexdigest()
    assert counted.read == ["weights"]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["written over", "written over, times put back", "replaced", "longer"])
def test_a_changed_file_is_read_again(how: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, kept = Counted(monkeypatch), KeptHashes(tmp_path / "hashes.json")
    kept(file)
    before = file.stat()
    if how == "replaced":
        (tmp_path / "new").write_bytes(b"xyz")
        os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "new").replace(file)
    else:
        with file.open("r+b") as open_file:
            open_file.write(b"xyz" + b"!" * (how == "longer"))
        if how.endswith("put back"):
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert kept(file) == KeptHashes(kept.path)(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert counted.read == ["weights"] * 2


def test_a_file_that_just_changed_is_not_kept(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change again within one tick of the file system's clock."""
    counted, kept = Counted(monkeypatch), KeptHashes(tmp_path / "hashes.json")
    assert kept(file) == kept(file)
    assert len(counted.read) == 2
    assert not kept.path.exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": 1}', '{"format": 1, "files": {"x": 3}}', '{"format": 2, "files": {}}']
)
def test_damaged_hashes_are_begun_anew(content: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "hashes.json").write_text(content)
    assert KeptHashes(tmp_path / "hashes.json")(file) == hashlib.sha256(b"abc").hexdigest()
    assert str(file) in json.loads((tmp_path / "hashes.json").read_text())["files"]


@pytest.mark.usefixtures("later")
def test_where_hashes_cannot_be_kept_files_are_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "hashes.json").mkdir()  # nothing can be written there
    for place in (tmp_path / "hashes.json", tmp_path / "no" / "folder" / "hashes.json"):
        assert KeptHashes(place)(file) == hashlib.sha256(b"abc").hexdigest()
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("later")
def test_two_that_keep_hashes_side_by_side_lose_none(file: Path, tmp_path: Path) -> None:
    first, second = KeptHashes(tmp_path / "hashes.json"), KeptHashes(tmp_path / "hashes.json")
    other = tmp_path / "other"
    other.write_bytes(b"d")
    first(file)
    second(other)
    first(other)
    assert json.loads((tmp_path / "hashes.json").read_text())["files"].keys() == {str(file), str(other)}


def test_a_large_file_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with (tmp_path / "weights").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse
    Counted(monkeypatch).read.clear()
    monkeypatch.setattr("lethe.records.fingerprints.sha256_of", lambda path: "0" * 64)
    KeptHashes(tmp_path / "hashes.json", told=told.append)(tmp_path / "weights")
    (sentence,) = told
    assert str(tmp_path / "weights") in sentence
    assert "1.1 GB" in sentence


def test_files_of_a_base_are_those_of_its_parts(sdxl_folder: Path) -> None:
    names = loaded_files(sdxl_folder)
    assert {name.split("/")[0] for name in names} == {
        "model_index.json", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae",
    }  # fmt: skip
    assert all(path == sdxl_folder / name for name, path in names.items())
