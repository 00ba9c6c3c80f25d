"""Edits that leave Lethe: a folder that diffusers loads and samples as it samples base and edit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import CPU, ROOT
from edited import edited_pipeline, factored_for, image, record_for, tree
from lethe.bases.pipeline import load_pipeline
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.edit import Edit
from lethe.edits.export import export
from lethe.edits.factors import FactoredEdit
from lethe.edits.loras import lora_of
from lethe.edits.weights import WeightEdit
from lethe.files.headers import header_of

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def factored(sd_folder: Path, drawn: Callable[..., Tensor]) -> FactoredEdit:
    return factored_for(sd_folder, drawn)


@pytest.fixture
def weighted(sd_folder: Path, drawn: Callable[..., Tensor]) -> Edit:
    """New projections, and a bias of a convolution: methods change what they like."""
    weights = {f"{n}.weight": drawn(*w.shape).float() for n, w in projection_weights(str(sd_folder), None).items()}
    return WeightEdit(weights | {"conv_in.bias": torch.ones(16)}, record_for(sd_folder))


@pytest.fixture
def copy(sd_folder: Path, tmp_path: Path) -> Path:
    """A copy of the base to change."""
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


# Folders


@pytest.mark.parametrize("form", ["weighted", "factored"])
def test_a_written_folder_samples_what_base_and_edit_sample(
    sd_folder: Path, tmp_path: Path, form: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(form).save(tmp_path / "edit")
    edit = Edit.load(tmp_path / "edit")
    export(edit, tmp_path / "out", base=sd_folder)
    got = image(DiffusionPipeline.from_pretrained(tmp_path / "out"))
    assert np.array_equal(got, image(edited_pipeline(sd_folder, edit)))
    plain = image(DiffusionPipeline.from_pretrained(sd_folder)).astype(int)
    assert abs(got - plain).max() > 10


def test_a_written_folder_differs_from_the_base_in_the_edited_weights_alone(
    sd_folder: Path, tmp_path: Path, weighted: Edit
) -> None:
    export(weighted, tmp_path / "out", base=sd_folder)
    before, after = tree(sd_folder), tree(tmp_path / "out")
    assert after.keys() - before.keys() == {"README.md", "lethe.json"}
    assert before.keys() <= after.keys()
    assert [name for name in before if before[name] != after[name]] == [UNET]
    old, new = load_file(sd_folder / UNET), load_file(tmp_path / "out" / UNET)
    assert list(old) == list(new)
    assert header_of(tmp_path / "out" / UNET)[1].keys() == header_of(sd_folder / UNET)[1].keys()
    for name, tensor in new.items():
        assert torch.equal(tensor, weighted.weights.get(name, old[name]))
    assert json.loads((tmp_path / "out" / "lethe.json").read_text()) == [weighted.record]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_base_keeps_its_precision(copy: Path, tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    full = load_file(copy / UNET)
    save_file({name: t.half() for name, t in full.items()}, copy / UNET, {"format": "pt"})
    edit = factored_for(copy, drawn)
    export(edit, tmp_path / "out", base=copy)
    new = load_file(tmp_path / "out" / UNET)
    assert {tensor.dtype for tensor in new.values()} == {torch.float16}
    for name, update in edit.updates.items():
        weight = full[f"{name}.weight"].half().double()
        want = weight @ edit.transform.double() + update.up.double() @ update.down.double()
        assert torch.equal(new[f"{name}.weight"], want.half())


def in_half_precision(base: Path, parts: tuple[str, ...], said: str | None) -> None:
    """Store parts in half precision; `said` is the dtype in the text encoder's configuration, none at all for None."""
    for part in parts:
        (path,) = (base / part).glob("*.safetensors")
        save_file({name: t.half() for name, t in load_file(path).items()}, path, {"format": "pt"})
    path = base / "text_encoder/config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "dtype"}
    path.write_text(json.dumps(config | ({"dtype": said} if said else {})))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("unet",), "float32"),
        (("unet", "vae"), "float32"),
        (("text_encoder",), "float16"),
        (("text_encoder",), None),
        (("unet", "vae", "text_encoder"), "float16"),
        (("unet", "vae", "text_encoder"), None),
        (("unet", "vae"), "bfloat16"),
        ((), None),
    ],
)
def test_a_written_folder_draws_without_naming_a_dtype(
    copy: Path, tmp_path: Path, drawn: Callable[..., Tensor], parts: tuple[str, ...], said: str | None
) -> None:
    in_half_precision(copy, parts, said)
    edit = factored_for(copy, drawn)
    export(edit, tmp_path / "out", base=copy)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    away = abs(image(pipeline).astype(int) - image(edited_pipeline(copy, edit))).max()
    assert away <= (3 if "unet" in parts else 0)  # there the edited weights are rounded to half precision
    for path in sorted((tmp_path / "out").glob("*/*.safetensors")):  # nothing is stored otherwise than in the base
        dtypes = {name: t.dtype for name, t in load_file(copy / path.relative_to(tmp_path / "out")).items()}
        assert {name: t.dtype for name, t in load_file(path).items()} == dtypes


def test_each_text_encoder_of_a_written_folder_loads_in_float32(sdxl_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(sdxl_folder, tmp_path / "base"))
    load_pipeline(str(base), None, device=CPU, precision="float16").save_pretrained(base)
    edit = WeightEdit({"conv_in.bias": torch.ones(16)}, record_for(base))
    export(edit, tmp_path / "out", base=base)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert {pipeline.text_encoder.dtype, pipeline.text_encoder_2.dtype, pipeline.unet.dtype} == {torch.float32}
    away = abs(image(pipeline).astype(int) - image(edited_pipeline(base, edit))).max()
    assert away <= 3


def test_the_shipped_pipeline_draws_without_naming_a_dtype() -> None:
    folder = ROOT / "resources/emoji/pipeline"
    pipeline = DiffusionPipeline.from_pretrained(folder)
    whole = load_pipeline(str(folder), None, device=CPU, precision="float32")
    assert np.array_equal(image(pipeline), image(whole))


def test_a_written_folder_names_no_checker_that_the_base_does_not_hold(
    copy: Path, tmp_path: Path, weighted: Edit
) -> None:
    path = copy / "model_index.json"
    named = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    named["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    export(weighted, tmp_path / "out", base=copy)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.safety_checker is None
    assert image(pipeline).shape == (32, 32, 3)


def test_a_base_in_shards_stays_in_shards(copy: Path, tmp_path: Path, factored: FactoredEdit) -> None:
    unet = UNet2DConditionModel.from_pretrained(copy / "unet")
    shutil.rmtree(copy / "unet")
    unet.save_pretrained(copy / "unet", max_shard_size="200KB")
    shards = sorted(path.name for path in (copy / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    export(factored, tmp_path / "out", base=copy)  # sharding changes no weight, so the edit is still for this base
    assert sorted(path.name for path in (tmp_path / "out" / "unet").glob("*.safetensors")) == shards
    got = DiffusionPipeline.from_pretrained(tmp_path / "out").unet.state_dict()
    want = factored.edited({f"{n}.weight": unet.get_submodule(n).weight for n in factored.updates})
    for name, tensor in unet.state_dict().items():
        assert torch.equal(got[name], want.get(name, tensor))


@pytest.mark.parametrize("size", ["10GB", "200KB"])
def test_a_base_in_half_precision_files_loads_without_naming_them(
    copy: Path, tmp_path: Path, drawn: Callable[..., Tensor], size: str
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(copy, dtype=torch.float16)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        with torch.no_grad():
            next(part.parameters()).mul_(0.5)  # so that the other files are those of another model
    pipeline.save_pretrained(copy, variant="fp16", max_shard_size=size)
    record = record_for(copy)
    record["base"] |= {"variant": "fp16", "weights_sha256": weights_hash(copy, variant="fp16")}
    assert record["base"]["weights_sha256"] != weights_hash(copy)
    edit = factored_for(copy, drawn)
    edit = FactoredEdit(edit.transform, edit.updates, edit.rows, record)
    export(edit, tmp_path / "out", base=copy)
    assert not list((tmp_path / "out").rglob("*fp16*"))
    assert len(list((tmp_path / "out" / "unet").glob("*.safetensors"))) == 1 or size == "200KB"
    edit.install(pipeline, base_fingerprint=record["base"]["fingerprint"])
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "out", dtype=torch.float16)
    for part in ("unet", "vae", "text_encoder"):
        want = getattr(pipeline, part).state_dict()
        for name, tensor in getattr(loaded, part).state_dict().items():
            assert torch.equal(tensor, want[name]), name


def test_unedited_weights_of_other_formats_are_left_out(copy: Path, tmp_path: Path, weighted: Edit) -> None:
    others = ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "flax_model.msgpack"]
    others += ["diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.bin.index.json"]
    for name in others:
        (copy / "unet" / name).write_text("x")
    (copy / "v1-5-pruned.ckpt").write_text("x")
    (copy / "v1-5.safetensors").write_text("x")
    (copy / "LICENSE.txt").write_text("mine")
    export(weighted, tmp_path / "out", base=copy)
    out = tree(tmp_path / "out")
    assert {"unet/config.json", UNET, "LICENSE.txt", "tokenizer/tokenizer.json"} <= out.keys()
    assert [name for name in out if name.split("/")[-1] in others or name.startswith("v1")] == []


def test_a_component_of_pickles_alone_is_refused(copy: Path, tmp_path: Path, weighted: Edit) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").rename(copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin: these weights are not in safetensors; save"):
        export(weighted, tmp_path / "out", base=copy)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def changed_unet(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    tensors["conv_out.bias"] = tensors["conv_out.bias"] + 1e-6
    save_file(tensors, folder / UNET)


def changed_text(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize(("change", "part"), [(changed_unet, "unet"), (changed_text, "text_encoder")])
def test_another_base_is_refused_and_nothing_written(
    copy: Path, tmp_path: Path, factored: FactoredEdit, change: Callable[[Path], None], part: str
) -> None:
    change(copy)
    text = rf"made for base tiny \(.*\), and .*copy differs from it in {part}; make the edit again for this base"
    with pytest.raises(ValueError, match=text):
        export(factored, tmp_path / "out", base=copy)
    with pytest.raises(ValueError, match=text):
        lora_of(copy, factored, rank=1)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_an_edited_folder_is_another_base(sd_folder: Path, tmp_path: Path, factored: FactoredEdit) -> None:
    export(factored, tmp_path / "once", base=sd_folder)
    with pytest.raises(ValueError, match="differs from it in unet"):
        export(factored, tmp_path / "twice", base=tmp_path / "once")


def test_edits_of_edits_keep_their_records(sd_folder: Path, tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    export(factored_for(sd_folder, drawn), tmp_path / "once", base=sd_folder)
    second = factored_for(tmp_path / "once", drawn)
    export(second, tmp_path / "twice", base=tmp_path / "once")
    records = json.loads((tmp_path / "twice" / "lethe.json").read_text())
    assert [record["base"]["model"] for record in records] == [str(sd_folder), str(tmp_path / "once")]
    assert (tmp_path / "twice" / "README.md").read_text().count("# An edited model") == 2


def test_an_edit_without_a_hash_of_weights_is_refused(sd_folder: Path, tmp_path: Path, weighted: Edit) -> None:
    base = {key: value for key, value in weighted.record["base"].items() if key != "weights_sha256"}
    with pytest.raises(ValueError, match="has no hash of the weights it was made for"):
        export(WeightEdit(weighted.weights, weighted.record | {"base": base}), tmp_path / "out", base=sd_folder)


def test_an_edit_that_does_not_fit_writes_nothing(sd_folder: Path, tmp_path: Path, weighted: Edit) -> None:
    unfit = WeightEdit(weighted.weights | {"conv_in.bias": torch.ones(3)}, weighted.record)
    with pytest.raises(ValueError, match=r"conv_in.bias is \[3\] in the edit and \[16\] in the base"):
        export(unfit, tmp_path / "out", base=sd_folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(sd_folder: Path, tmp_path: Path, weighted: Edit) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="it is there already"):
        export(weighted, tmp_path, base=sd_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_copy_that_fails_leaves_nothing(
    sd_folder: Path, tmp_path: Path, weighted: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lethe.edits.export.replace_tensors", full)
    with pytest.raises(OSError, match="No space"):
        export(weighted, tmp_path / "out", base=sd_folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("ckpt",), "there is no form 'ckpt'; there are diffusers, checkpoint, diff, kohya, peft"),
        (("kohya",), "the form kohya needs a rank"),
        (("diff", 3), "the form diff has no use for a rank"),
        (("checkpoint",), "the form checkpoint needs a checkpoint"),
    ],
)
def test_what_a_form_needs_is_said(tmp_path: Path, weighted: Edit, given: tuple, told: str) -> None:
    form, rank = (*given, None)[:2]
    with pytest.raises(ValueError, match=told):
        export(weighted, tmp_path / "out", form, rank=rank)
    with pytest.raises(ValueError, match="the form peft has no use for a checkpoint"):
        export(weighted, tmp_path / "out", "peft", rank=1, checkpoint="x")
    with pytest.raises(ValueError, match="a row is one of a table"):
        export(weighted, tmp_path / "out", row="mace")
    assert list(tmp_path.iterdir()) == []


def test_the_base_is_by_default_that_of_the_edit(sd_folder: Path, tmp_path: Path, weighted: Edit) -> None:
    made = export(weighted, tmp_path / "out")
    assert (made.path, made.left_out) == (tmp_path / "out", 0)
    export(weighted, tmp_path / "named", base=sd_folder)
    assert tree(tmp_path / "out") == tree(tmp_path / "named")
    with pytest.raises(ValueError, match="is a folder and has no revisions"):
        export(weighted, tmp_path / "third", revision="main")
