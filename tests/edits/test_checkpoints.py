"""Edits in single-file checkpoints: the edited tensors alone are others, and diffusers reads the file as the edit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bad_input import PICKLE
from edited import edited_pipeline, factored_for, image, layered, record_for, tree, whole_for
from lethe.bases.original_names import PREFIX, original_name
from lethe.bases.pipeline import load_pipeline
from lethe.edits.export import export
from lethe.edits.weights import WeightEdit
from lethe.files.headers import header_of

UNET = "unet/diffusion_pytorch_model.safetensors"
OTHERS = {
    "first_stage_model.decoder.conv_in.weight": torch.arange(12.0).reshape(3, 4),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    "alphas_cumprod": torch.linspace(1, 0, 5, dtype=torch.float64),
}
ITS_OWN = {"format": "pt", "modelspec.title": "Mine", "modelspec.author": "me", "modelspec.hash_sha256": "0xabc"}


@pytest.fixture(scope="module", params=["sd_folder", "sd2_folder", "sdxl_folder"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each family, built as Stable Diffusion's own are."""
    return layered(request.getfixturevalue(request.param), tmp_path_factory.mktemp("layered") / "base")


def checkpoint_of(base: Path, path: Path, dtype: torch.dtype = torch.float32, **more: Tensor) -> Path:
    """A base's U-Net as a single file, with tensors of other kinds beside it and metadata of somebody's own."""
    config = json.loads((base / "unet" / "config.json").read_text())
    unet = {PREFIX + original_name(name, config): t.to(dtype) for name, t in load_file(base / UNET).items()}
    save_file(unet | OTHERS | more, path, ITS_OWN)
    return path


def read(path: Path, base: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The U-Net of a single file as diffusers reads it."""
    options = dict(config=str(base), subfolder="unet", local_files_only=True, torch_dtype=dtype)
    return UNet2DConditionModel.from_single_file(str(path), **options).state_dict()


def contents(path: Path) -> dict[str, tuple]:
    """The bytes of each tensor of a file, with what its header says of them."""
    start, header = header_of(path)
    data = path.read_bytes()[start:]
    return {
        name: (told, data[told["data_offsets"][0] : told["data_offsets"][1]])
        for name, told in header.items()
        if name != "__metadata__"
    }


def test_a_whole_edit_of_each_family_is_what_diffusers_reads(
    base: Path, tmp_path: Path, drawn: Callable[..., Tensor]
) -> None:
    edit = whole_for(base, drawn)
    file = checkpoint_of(base, tmp_path / "mine.safetensors")
    made = export(edit, tmp_path / "out", "checkpoint", checkpoint=file)
    assert (made.path, made.left_out) == (tmp_path / "out" / "out.safetensors", 0)
    got = read(made.path, base)
    assert got.keys() == edit.weights.keys()
    for name, weight in edit.weights.items():
        assert torch.equal(got[name], weight), name
    before, after = contents(file), contents(made.path)
    assert list(before) == list(after)
    for name in OTHERS:
        assert before[name] == after[name]


def test_all_but_the_edited_tensors_is_byte_for_byte_as_it_was(
    sd_folder: Path, tmp_path: Path, drawn: Callable[..., Tensor]
) -> None:
    edit = factored_for(sd_folder, drawn)
    file = checkpoint_of(sd_folder, tmp_path / "mine.safetensors")
    own = file.read_bytes()
    made = [export(edit, tmp_path / name / "out", "checkpoint", checkpoint=file).path for name in ("a", "b")]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert file.read_bytes() == own
    before, after = contents(file), contents(made[0])
    config = json.loads((sd_folder / "unet" / "config.json").read_text())
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {PREFIX + original_name(name, config) for name in edit.shapes}
    assert all(before[name][0] == after[name][0] for name in before)
    with safe_open(made[0], "pt") as opened:
        about = opened.metadata()
    start, _ = header_of(made[0])
    assert about["modelspec.hash_sha256"] == f"0x{hashlib.sha256(made[0].read_bytes()[start:]).hexdigest()}"
    assert about["modelspec.author"] == "me"
    assert about["modelspec.title"] == "tiny without AC/DC, Ü ```` ship"
    assert about["modelspec.architecture"] == "StableDiffusionPipeline"
    assert about["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
    assert json.loads(about["lethe"]) == edit.record | {"export": {"form": "checkpoint"}}


def test_a_pipeline_from_the_file_draws_the_edit(sd_folder: Path, tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    edit = factored_for(sd_folder, drawn)
    file = checkpoint_of(sd_folder, tmp_path / "mine.safetensors")
    made = export(edit, tmp_path / "out", "checkpoint", checkpoint=file)
    base = load_pipeline(str(sd_folder), None, device=torch.device("cpu"), precision="float32")
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    pipeline = StableDiffusionPipeline.from_single_file(
        str(made.path), config=str(sd_folder), local_files_only=True, safety_checker=None, **parts
    )
    assert np.array_equal(image(pipeline), image(edited_pipeline(sd_folder, edit)))


def test_a_file_in_half_precision_of_a_base_in_full_stays_so(
    sd_folder: Path, tmp_path: Path, drawn: Callable[..., Tensor]
) -> None:
    edit = factored_for(sd_folder, drawn)
    file = checkpoint_of(sd_folder, tmp_path / "mine.safetensors", torch.float16)
    made = export(edit, tmp_path / "out", "checkpoint", checkpoint=file)
    full = load_file(sd_folder / UNET)
    want = full | edit.edited({name: full[name] for name in edit.shapes})
    for name, weight in read(made.path, sd_folder, torch.float16).items():
        assert torch.equal(weight, want[name].half()), name
    dtypes = {name: told["dtype"] for name, (told, _) in contents(made.path).items()}
    assert {dtype for name, dtype in dtypes.items() if name.startswith(PREFIX)} == {"F16"}
    assert dtypes == {name: told["dtype"] for name, (told, _) in contents(file).items()}


def changed(name: str, by: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: tensors[name] + by}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            changed(f"{PREFIX}out.2.bias", 1e-3),
            r"mine.safetensors: its model.diffusion_model.out.2.bias is not the base's conv_out.bias; the edit was",
        ),
        (
            lambda tensors: {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
            r"mine.safetensors: it has no tensor model.diffusion_model\.\S+; it must be a whole checkpoint",
        ),
        (
            lambda tensors: tensors | {"model_ema.diffusion_modelout2bias": torch.ones(4)},
            "it holds a second U-Net .*; take the pruned file",
        ),
    ],
    ids=["another", "other names", "with averages"],
)
def test_a_file_that_is_not_the_bases_is_refused(
    sd_folder: Path, tmp_path: Path, spoil: Callable, told: str, drawn: Callable[..., Tensor]
) -> None:
    file = checkpoint_of(sd_folder, tmp_path / "mine.safetensors")
    save_file(spoil(load_file(file)), file, ITS_OWN)
    with pytest.raises(ValueError, match=told):
        export(factored_for(sd_folder, drawn), tmp_path / "out", "checkpoint", checkpoint=file)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine.ckpt", "mine.ckpt: only checkpoints in safetensors are rewritten"),
        ("mine.safetensors", "mine.safetensors: this is no safetensors file"),
        ("absent.safetensors", "absent.safetensors: there is no such safetensors file"),
    ],
)
def test_pickles_are_refused(
    sd_folder: Path, tmp_path: Path, name: str, told: str, drawn: Callable[..., Tensor]
) -> None:
    for pickled in ("mine.ckpt", "mine.safetensors"):
        (tmp_path / pickled).write_bytes(PICKLE)
    with pytest.raises(ValueError, match=told):
        export(factored_for(sd_folder, drawn), tmp_path / "out", "checkpoint", checkpoint=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_such_files_do_not_have_is_named(sd_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(sd_folder, tmp_path / "base"))
    file = checkpoint_of(base, tmp_path / "mine.safetensors")
    save_file(load_file(base / UNET) | {"encoder_hid_proj.weight": torch.ones(2)}, base / UNET, {"format": "pt"})
    edit = WeightEdit({"encoder_hid_proj.weight": torch.zeros(2)}, record_for(base))
    with pytest.raises(
        ValueError, match=r"encoder_hid_proj\.weight of the U-Net has no name in single-file checkpoints"
    ):
        export(edit, tmp_path / "out", "checkpoint", checkpoint=file)
    assert not (tmp_path / "out").exists()


def test_what_a_half_precision_file_cannot_hold_is_refused_and_nothing_left(sd_folder: Path, tmp_path: Path) -> None:
    file = checkpoint_of(sd_folder, tmp_path / "mine.safetensors", torch.float16)
    before = tree(tmp_path)
    edit = WeightEdit({"conv_in.bias": torch.full((16,), 1e6)}, record_for(sd_folder))
    with pytest.raises(ValueError, match=r"the edited conv_in\.bias"):
        export(edit, tmp_path / "out", "checkpoint", checkpoint=file)
    assert tree(tmp_path) == before
