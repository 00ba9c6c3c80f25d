"""Files that are added to a base: differences and LoRAs, as diffusers, peft, ComfyUI and A1111 read them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import CPU
from edited import edited_pipeline, factored_for, image, layered, record_for, whole_for
from lethe.bases.original_names import original_name
from lethe.bases.pipeline import load_pipeline
from lethe.bases.weights import projection_weights
from lethe.edits.export import export
from lethe.edits.factors import FactoredEdit
from lethe.edits.loras import LoraOfEdit, lora_of, nearest_low_rank
from lethe.edits.weights import WeightEdit
from user_interfaces import in_a1111, in_comfyui

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def factored(sd_folder: Path, drawn: Callable[..., Tensor]) -> FactoredEdit:
    return factored_for(sd_folder, drawn)


@pytest.fixture(scope="module", params=["sd_folder", "sd2_folder", "sdxl_folder"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each family, built as Stable Diffusion's own are."""
    return layered(request.getfixturevalue(request.param), tmp_path_factory.mktemp("layered") / "base")


def projected(base: Path, drawn: Callable[..., Tensor]) -> WeightEdit:
    """New projections, whatever their width."""
    weights = projection_weights(str(base), None)
    changed = {f"{n}.weight": w + 0.1 * drawn(*w.shape, seed=k).float() for k, (n, w) in enumerate(weights.items())}
    return WeightEdit(changed, record_for(base))


def original(weights: dict[str, Tensor], base: Path) -> dict[str, Tensor]:
    config = json.loads((base / "unet" / "config.json").read_text())
    return {original_name(name, config): tensor for name, tensor in weights.items()}


def read_by(interface: str, base: Path, file: Path) -> dict[str, Tensor]:
    """The base's U-Net, by original names, with a file in it as a user interface puts it there."""
    unet = load_file(base / UNET)
    weights = original(unet, base)
    if interface == "a1111":
        return in_a1111(weights, load_file(file))
    names = dict(zip(unet, weights, strict=True))
    return in_comfyui(weights, load_file(file), names)


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


# The nearest LoRA


def test_the_nearest_low_rank_matrix_is_that_of_the_largest_singular_values(drawn: Callable[..., Tensor]) -> None:
    matrix = drawn(7, 5)
    values = torch.linalg.eigvalsh(matrix.mT @ matrix).flip(0)
    for rank in (1, 3, 5, 8):
        near, got = nearest_low_rank(matrix, rank)
        assert torch.allclose(got.square(), values)
        assert near.up.shape == (7, rank)
        assert near.down.shape == (rank, 5)
        rest = matrix - near.up.double() @ near.down.double()
        assert rest.square().sum().item() == pytest.approx(values[rank:].sum().item(), abs=1e-5)


@pytest.mark.parametrize("form", ["edit", "factored"])
def test_a_lora_says_what_it_leaves_out(
    sd_folder: Path, factored: FactoredEdit, form: str, drawn: Callable[..., Tensor]
) -> None:
    base = {f"{name}.weight": weight for name, weight in projection_weights(str(sd_folder), None).items()}
    edit = factored if form == "factored" else WeightEdit(factored.edited(base), factored.record)
    found = {rank: lora_of(sd_folder, edit, rank=rank) for rank in (1, 8)}
    change = {name: w.double() - base[name].double() for name, w in factored.edited(base).items()}
    for lora in found.values():
        rest = {}
        for name, delta in change.items():
            update = lora.updates[name.removesuffix(".weight")]
            rest[name] = (delta - update.up.double() @ update.down.double()).square().sum().item()
        size = sum(delta.square().sum().item() for delta in change.values())
        assert lora.left_out == pytest.approx((sum(rest.values()) / size) ** 0.5, rel=1e-3)
        name, share = lora.worst
        shares = {n: (left / change[n].square().sum().item()) ** 0.5 for n, left in rest.items()}
        assert max(shares, key=shares.__getitem__) == f"{name}.weight"
        assert share == pytest.approx(max(shares.values()), rel=1e-3)
    assert 0.05 < found[8].left_out < found[1].left_out < 1


def test_what_no_lora_can_express_is_refused(sd_folder: Path, factored: FactoredEdit) -> None:
    weighted = WeightEdit({"conv_in.bias": torch.ones(16)}, record_for(sd_folder))
    with pytest.raises(ValueError, match="the edit changes conv_in.bias, which is no projection; a LoRA cannot"):
        lora_of(sd_folder, weighted, rank=2)
    with pytest.raises(ValueError, match="`rank` must be 1 or more; got 0"):
        lora_of(sd_folder, factored, rank=0)


def test_a_lora_of_an_edit_that_changes_nothing(sd_folder: Path) -> None:
    same = {f"{name}.weight": weight for name, weight in projection_weights(str(sd_folder), None).items()}
    lora = lora_of(sd_folder, WeightEdit(same, record_for(sd_folder)), rank=1)
    assert isinstance(lora, LoraOfEdit)
    assert lora.left_out == lora.worst[1] == 0
    assert all(update.up.abs().max() == 0 for update in lora.updates.values())


# LoRAs as others read them


def test_diffusers_loads_either_lora_and_at_full_rank_it_is_the_edit(
    sd_folder: Path, tmp_path: Path, factored: FactoredEdit
) -> None:
    want = image(edited_pipeline(sd_folder, factored)).astype(int)
    for form in ("peft", "kohya"):
        images = {}
        for rank in (2, 32):
            made = export(factored, tmp_path / f"{form}-{rank}", form, rank=rank)
            pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision="float32")
            pipeline.load_lora_weights(made.path.parent, weight_name=made.path.name)
            images[rank] = image(pipeline).astype(int)
            assert f"rank {rank} leaves out {made.left_out:.2%} of the edit's change" in made.about[0]
        assert made.left_out < 1e-6
        assert abs(images[32] - want).max() <= 1
        assert abs(images[2] - want).max() > 3


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_diffusers_adds_exactly_the_lora_in_each_family(
    base: Path, tmp_path: Path, form: str, drawn: Callable[..., Tensor]
) -> None:
    edit = projected(base, drawn)
    lora = lora_of(base, edit, rank=3)
    made = export(edit, tmp_path / "out", form, rank=3)
    pipeline = load_pipeline(str(base), None, device=CPU, precision="float32")
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    pipeline.load_lora_weights(made.path.parent, weight_name=made.path.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    for name, weight in before.items():
        update = lora.updates.get(name.removesuffix(".weight"))
        want = weight if update is None else weight.double() + update.up.double() @ update.down.double()
        assert torch.allclose(after[name].double(), want.double(), atol=1e-6), name
        assert (update is None) == torch.equal(after[name], weight)


def test_peft_itself_reads_the_lora(base: Path, tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    edit = projected(base, drawn)
    made = export(edit, tmp_path / "out", "peft", rank=3)
    assert made.path.name == "pytorch_lora_weights.safetensors"
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=r".*attn2\.to_[kv]"), unet)
    state = {key.removeprefix("unet."): tensor for key, tensor in load_file(made.path).items()}
    found = set_peft_model_state_dict(unet, state)
    assert found.unexpected_keys == []
    assert not [key for key in found.missing_keys if "lora" in key]
    for name, update in lora_of(base, edit, rank=3).updates.items():
        delta = unet.get_submodule(name).get_delta_weight("default")
        assert torch.allclose(delta, update.up @ update.down, atol=1e-6)


@pytest.mark.parametrize("interface", ["comfyui", "a1111"])
def test_user_interfaces_find_every_key_of_kohyas_lora(
    base: Path, tmp_path: Path, interface: str, drawn: Callable[..., Tensor]
) -> None:
    edit = projected(base, drawn)
    lora = lora_of(base, edit, rank=3)
    found = read_by(interface, base, export(edit, tmp_path / "out", "kohya", rank=3).path)
    unet = load_file(base / UNET)
    want = {name: weight.double() for name, weight in unet.items()}
    for name, update in lora.updates.items():
        want[f"{name}.weight"] += update.up.double() @ update.down.double()
    for name, weight in original(want, base).items():
        assert torch.allclose(found[name].double(), weight, atol=1e-6), name


def test_kohyas_keys_are_those_of_the_network_that_its_trainer_builds(
    base: Path, tmp_path: Path, drawn: Callable[..., Tensor]
) -> None:
    file = export(projected(base, drawn), tmp_path / "out", "kohya", rank=3).path
    assert file.name == "out.safetensors"
    keys = load_file(file).keys()
    config = json.loads((base / "unet" / "config.json").read_text())
    inside = "transformer_blocks_0_attn2_to_k.lora_down.weight"
    xl = config["addition_embed_type"] == "text_time"
    assert (f"lora_unet_input_blocks_4_1_{inside}" in keys) == xl
    assert (f"lora_unet_down_blocks_0_attentions_0_{inside}" in keys) != xl
    assert {key.partition(".")[2] for key in keys} == {"lora_down.weight", "lora_up.weight", "alpha"}


# Differences


@pytest.mark.parametrize("interface", ["comfyui", "a1111"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole U-Net", "projections"])
def test_user_interfaces_make_the_edit_of_its_differences(
    base: Path, tmp_path: Path, interface: str, whole: bool, drawn: Callable[..., Tensor]
) -> None:
    edit = whole_for(base, drawn) if whole else projected(base, drawn)
    made = export(edit, tmp_path / "out", "diff")
    found = read_by(interface, base, made.path)
    unet = load_file(base / UNET)
    for name, weight in original(unet | edit.weights, base).items():
        assert torch.allclose(found[name], weight, rtol=2**-22, atol=2**-22), name  # two roundings, of about 1
    assert made.left_out == 0
    assert len(load_file(made.path)) == len(edit.weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_differences_have_the_dtype_of_the_base(
    sd_folder: Path, tmp_path: Path, dtype: torch.dtype, drawn: Callable[..., Tensor]
) -> None:
    base = layered(sd_folder, tmp_path / "base")
    full = load_file(base / UNET)
    save_file({name: tensor.to(dtype) for name, tensor in full.items()}, base / UNET, {"format": "pt"})
    edit = projected(base, drawn)
    file = export(edit, tmp_path / "out", "diff").path
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    found = read_by("comfyui", base, file)
    before = original(load_file(base / UNET), base)
    for name, weight in (before | original(edit.weights, base)).items():
        rounded = torch.finfo(dtype).eps * (weight.abs() + before[name].abs())  # the difference once, and the sum
        assert ((found[name] - weight).abs() <= rounded).all(), name


@pytest.mark.parametrize("interface", ["comfyui", "a1111"])
def test_a_bias_alone_is_found_too(sd_folder: Path, tmp_path: Path, interface: str) -> None:
    base = layered(sd_folder, tmp_path / "base")
    edit = WeightEdit({"conv_in.bias": torch.ones(16)}, record_for(base))
    found = read_by(interface, base, export(edit, tmp_path / "out", "diff").path)
    for name, weight in original(load_file(base / UNET) | edit.weights, base).items():
        assert torch.allclose(found[name], weight), name


def test_a_parameter_that_is_neither_weight_nor_bias_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    base = layered(sd_folder, tmp_path / "base")
    unet = load_file(base / UNET)
    save_file(unet | {"conv_in.gain": torch.ones(1)}, base / UNET, {"format": "pt"})
    edit = WeightEdit({"conv_in.gain": torch.zeros(1)}, record_for(base))
    with pytest.raises(ValueError, match=r"the edit changes conv_in\.gain, neither weight nor bias"):
        export(edit, tmp_path / "out", "diff")
    assert not (tmp_path / "out").exists()


# Headers


@pytest.mark.parametrize("form", ["diff", "kohya", "peft"])
def test_headers_say_what_a_file_is(base: Path, tmp_path: Path, form: str, drawn: Callable[..., Tensor]) -> None:
    edit = projected(base, drawn)
    made = [export(edit, tmp_path / name / "out", form, rank=None if form == "diff" else 2) for name in ("a", "b")]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    about = metadata(made[0].path)
    (length,) = struct.unpack("<Q", made[0].path.read_bytes()[:8])
    digest = hashlib.sha256(made[0].path.read_bytes()[8 + length :]).hexdigest()
    assert about["modelspec.hash_sha256"] == f"0x{digest}"
    assert about["modelspec.sai_model_spec"] == "1.0.1"
    assert about["modelspec.architecture"].endswith("Pipeline/lora")  # tiny: none of Stable Diffusion's own
    assert about["modelspec.implementation"] == "diffusers"
    assert about["modelspec.title"] == "tiny without AC/DC, Ü ```` ship"
    assert about["modelspec.description"] == made[0].about[0]
    assert about["modelspec.resolution"] == "32x32"
    record = json.loads(about["lethe"])
    told = record.pop("export")
    assert record == edit.record
    assert told == {"form": form} | ({} if form == "diff" else {"rank": 2, "left_out": made[0].left_out})
    assert about.get("ss_network_dim") == ("2" if form == "kohya" else None)


@pytest.mark.parametrize(
    ("width", "prediction", "told"),
    [
        (768, "epsilon", ("stable-diffusion-v1/lora", "epsilon", "sd_v1", "False")),
        (1024, "epsilon", ("stable-diffusion-v2-512/lora", "epsilon", "sd_v2", "True")),
        (1024, "v_prediction", ("stable-diffusion-v2-768-v/lora", "v", "sd_v2", "True")),
        (2048, "epsilon", ("stable-diffusion-xl-v1-base/lora", "epsilon", "sdxl_base_v1-0", "False")),
    ],
)
def test_headers_name_the_family(sd_folder: Path, tmp_path: Path, width: int, prediction: str, told: tuple) -> None:
    base = layered(sd_folder, tmp_path / "base")
    for path, changed in (
        (base / "unet" / "config.json", {"cross_attention_dim": width}),
        (base / "scheduler" / "scheduler_config.json", {"prediction_type": prediction}),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    edit = WeightEdit({"conv_in.bias": torch.ones(16)}, record_for(base))
    about = metadata(export(edit, tmp_path / "out", "diff").path)
    keys = ("modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version", "ss_v2")
    assert tuple(about[key] for key in keys) == told
