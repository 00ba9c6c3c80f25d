"""Folders of models: what of them is whole without a network, and which files they load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from bad_input import (
    CODE,
    PICKLE,
    Case,
    Place,
    describe_of,
    each_of,
    index,
    pipeline_of,
    refusals,
    spoilt,
    text_of,
    weights_of,
    with_file,
)
from conftest import CPU, ROOT
from lethe.bases.folder import base_folder, cached_folder, model_folder, weight_files
from lethe.bases.pipeline import load_pipeline, load_text
from lethe.bases.weights import projection_weights
from lethe.erasure.masks import load_clipseg
from lethe.measures.clip import load_judge


def snapshot(model: str, revision: str) -> Path:
    return Path(cached_folder(model, revision))


@pytest.fixture(params=["sd_folder", "sd2_folder", "sdxl_folder", "clip_folder", "clipseg_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_a_folder_is_itself_whatever_it_holds(tmp_path: Path) -> None:
    assert cached_folder(str(tmp_path), None) == tmp_path
    assert base_folder(str(tmp_path), None) == model_folder(str(tmp_path), None) == tmp_path


def test_a_cached_snapshot_is_found_without_a_network(folder: Path, hub_cache: Callable) -> None:
    model, revision = hub_cache(folder)
    found = cached_folder(model, revision)
    assert found is not None
    assert found.name == revision
    assert cached_folder(model, None) == cached_folder(model, "main") == found
    assert base_folder(model, revision) == model_folder(model, revision) == found


@pytest.mark.parametrize("model", ["owner/other", "no id", "../x", "owner/.."])
def test_what_is_not_cached_is_not_found(folder: Path, hub_cache: Callable, model: str) -> None:
    _, revision = hub_cache(folder)
    assert cached_folder(model, revision) is None
    assert cached_folder("owner/name", "0" * 40) is None
    assert cached_folder("owner/name", "a branch") is None


def test_a_snapshot_that_lacks_a_file_is_not_whole(folder: Path, hub_cache: Callable) -> None:
    """Each file whose lack would make something up, or end in the words of a library."""
    model, revision = hub_cache(folder)
    root = snapshot(model, revision)
    needed = [path for path in root.rglob("*") if path.is_file() and path.parts[-2:][0] != "logs"]
    assert len(needed) >= 5
    for path in needed:
        away = path.rename(path.with_suffix(".away"))
        assert cached_folder(model, revision) is None, path.relative_to(root)
        away.rename(path)
    assert cached_folder(model, revision) == root


def test_a_link_to_a_blob_that_is_not_there_is_no_file(sd_folder: Path, hub_cache: Callable, tmp_path: Path) -> None:
    model, revision = hub_cache(sd_folder)
    path = snapshot(model, revision) / "unet/diffusion_pytorch_model.safetensors"
    blob = path.rename(tmp_path / "blob")
    path.symlink_to(blob)
    assert cached_folder(model, revision) is not None
    blob.unlink()
    assert cached_folder(model, revision) is None


def test_a_snapshot_without_one_of_its_shards_is_not_whole(sd_folder: Path, hub_cache: Callable, unet) -> None:
    model, revision = hub_cache(sd_folder)
    folder = snapshot(model, revision) / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder, max_shard_size="200KB")
    assert cached_folder(model, revision) is not None
    sorted(folder.glob("*.safetensors"))[-1].unlink()
    assert cached_folder(model, revision) is None


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_snapshot_without_the_variant_is_not_whole_for_it(sd_folder: Path, hub_cache: Callable, part: str) -> None:
    model, revision = hub_cache(sd_folder)
    root = snapshot(model, revision)
    assert cached_folder(model, revision, "fp16") is None
    (path,) = (root / part).glob("*.safetensors")
    half = path.rename(path.with_suffix(".fp16.safetensors"))
    assert cached_folder(model, revision, "fp16") == root  # the other parts have no such files, as on the hub
    assert cached_folder(model, revision) is None
    shutil.copy(half, path)
    assert cached_folder(model, revision) == root


def test_parts_that_draw_nothing_are_not_needed(sd_folder: Path, hub_cache: Callable) -> None:
    model, revision = hub_cache(sd_folder)
    path = snapshot(model, revision) / "model_index.json"
    index = json.loads(path.read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    path.write_text(json.dumps(index))
    assert cached_folder(model, revision) == path.parent
    load_pipeline(model, revision, device=CPU, precision="float32")


def test_nothing_asks_the_network_about_a_cached_model(
    sd_folder: Path, clip_folder: Path, clipseg_folder: Path, hub_cache: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("socket.socket.connect", lambda self, address: asked.append(address))
    monkeypatch.setattr("socket.getaddrinfo", lambda *address, **options: asked.append(address) or [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (model, sd), (_, clip), (_, clipseg) = (hub_cache(folder) for folder in (sd_folder, clip_folder, clipseg_folder))
    load_pipeline(model, sd, device=CPU, precision="float32")
    load_text(model, sd, device=CPU, precision="float32")
    projection_weights(model, sd)
    load_judge(model, clip, device=CPU)
    load_clipseg(model, clipseg, device=CPU)
    assert asked == []


@pytest.mark.parametrize(("find", "key"), [(base_folder, "bases.sd.model"), (model_folder, "masks.clipseg.model")])
@pytest.mark.parametrize("revision", [None, "1" * 40])
def test_what_cannot_be_had_is_named_with_its_key(
    sd_folder: Path, hub_cache: Callable, find: Callable, key: str, revision: str | None
) -> None:
    hub_cache(sd_folder)
    with pytest.raises(ValueError, match="no such folder") as caught:
        find("owner/other", revision, key=key)
    at = f" --revision {revision}" if revision else ""
    assert str(caught.value) == (
        f"{key}: owner/other: no such folder, the hub's cache does not hold all of it, and HF_HUB_OFFLINE forbids to "
        f"ask the hub; run `hf download owner/other{at}` where there is a network, or correct name and revision"
    )


def test_a_snapshot_that_is_not_whole_is_not_loaded_without_a_network(sd_folder: Path, hub_cache: Callable) -> None:
    model, revision = hub_cache(sd_folder)
    (snapshot(model, revision) / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(
        ValueError, match=r"bases.sd.model: owner/name: .*hf download owner/name --revision 0"
    ) as caught:
        base_folder(model, revision, key="bases.sd.model")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (("config.json", "pytorch_model.bin"), "model.safetensors"),
        (("config.json", "model.safetensors", "preprocessor_config.json"), "tokenizer_config.json"),
        ((), "config.json"),
    ],
)
def test_what_the_hub_gives_must_be_whole(
    tmp_path: Path, hub_cache: Callable, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], lacks: str
) -> None:
    for name in files:
        (tmp_path / name).write_text('{"model_type": "clip"}')
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *given, **options: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **options: str(tmp_path))
    with pytest.raises(ValueError, match=rf"clip.model: owner/other: what the hub has of it here lacks {lacks}; run"):
        model_folder("owner/other", None, key="clip.model")


@pytest.mark.parametrize("find", [base_folder, model_folder])
def test_a_single_file_is_told_how_to_become_a_folder(tmp_path: Path, find: Callable) -> None:
    (tmp_path / "v1-5.safetensors").touch()
    with pytest.raises(ValueError, match=r"v1-5.safetensors' is a single file, .*from_single_file\(FILE\)"):
        find(str(tmp_path / "v1-5.safetensors"), None)


def test_a_network_that_does_not_answer_is_told_in_a_sentence(
    hub_cache: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ConnectError(Exception):
        """As a client's that is no OSError."""

    def fail(*given: object, **options: object) -> None:
        raise ConnectError("Name or service not known\nmore")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    for find in (base_folder, model_folder):
        told = r"key: owner/other: no such folder, .* the hub does not give it \(Name or service not known\); run `hf"
        with pytest.raises(ValueError, match=told) as caught:
            find("owner/other", None, key="key")
        assert len(str(caught.value).splitlines()) == 1


def test_planning_needs_neither_torch_nor_the_libraries() -> None:
    """What the Snakefile imports: the rooms of the configuration and of what users give, plans, records."""
    rooms = [ROOT / "workflow" / "lethe" / room for room in ("config", "inputs", "records")]
    modules = [f"lethe.{path.parent.name}.{path.stem}" for room in rooms for path in room.glob("[!_]*.py")]
    assert len(modules) > 12
    code = f"import sys, lethe.plan, {', '.join(modules)}; print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert not {"torch", "diffusers", "transformers", "huggingface_hub"} & set(run.stdout.split())


def test_weight_files_prefer_the_variant_and_fall_back(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder / "text_encoder", tmp_path / "text_encoder")
    plain = folder / "model.safetensors"
    assert weight_files(folder, variant="fp16") == weight_files(folder) == {"model.safetensors": plain}
    half = folder / "model.fp16.safetensors"
    save_file({k: t.half() for k, t in load_file(plain).items()}, half)
    assert weight_files(folder, variant="fp16") == {"model.safetensors": half}
    assert weight_files(folder) == {"model.safetensors": plain}


# Bad input


def shards_elsewhere(base: Path) -> None:
    name = "mid.attn2.to_k.weight"
    content = {"weight_map": {name: "../../../outside/secret.safetensors"}}
    (base / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(content))


CLASSES = "a base must be made of classes of diffusers and transformers alone"
CASES = [
    *refusals(
        "a base",
        {
            "class of another package": (
                index(unet=["subprocess", "Popen"]),
                pipeline_of,
                ("model_index.json names 'Popen' of 'subprocess' for unet", CLASSES),
            ),
            "class of a module in its folder": (
                with_file("unet/evil.py", CODE, index(unet=["evil", "Evil"])),
                pipeline_of,
                ("names 'Evil' of 'evil' for unet", CLASSES),
            ),
            "pipeline of its own": (
                with_file("pipeline.py", CODE, index(_class_name=["pipeline", "Evil"])),
                pipeline_of,
                ("names the pipeline ['pipeline', 'Evil']", "one of diffusers' own"),
            ),
            "unknown pipeline": (index(_class_name="Evil"), pipeline_of, ("names the pipeline 'Evil'",)),
            "part whose name is a path": (
                index(**{"../../outside": ["diffusers", "UNet2DConditionModel"]}),
                text_of,
                ("model_index.json must list each part by a plain name", "'../../outside'"),
            ),
            "index that is a list": (with_file("model_index.json", "[]"), text_of, ("must hold a JSON object",)),
            "index that is no JSON": (
                with_file("model_index.json", PICKLE),
                describe_of,
                ("model_index.json: this is no JSON",),
            ),
            "shards elsewhere": (shards_elsewhere, weights_of, ("its shards must be files beside it",)),
        },
        spoilt,
    ),
]


@each_of(CASES)
def test_an_index_that_leads_elsewhere_is_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
