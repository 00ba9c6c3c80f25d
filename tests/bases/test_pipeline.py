"""Bases: what loads, what is found in it, and what a scheduler's swap keeps."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn

from bad_input import (
    CODE,
    Case,
    Place,
    describe_of,
    each_of,
    only_pickle,
    pipeline_of,
    refusals,
    spoilt,
    text_of,
    with_file,
)
from conftest import CPU
from lethe.bases.pipeline import describe, load_pipeline, load_text, text_encoders, use_scheduler
from lethe.bases.unet import cross_attention_projections


def test_projections_are_those_of_attn2_in_order(base_unet: UNet2DConditionModel) -> None:
    found = cross_attention_projections(base_unet)
    pattern = re.compile(
        r"(down_blocks\.\d|mid_block|up_blocks\.\d)\.attentions\.\d\.transformer_blocks\.[01]\.attn2\.to_[kv]"
    )
    assert all(pattern.fullmatch(name) for name in found)
    assert list(found) == [name for name, _ in base_unet.named_modules() if name in found]
    # Two each for 2 down, 1 middle, 4 up; in SDXL for 1 down, 1 middle, 2 up with two transformers in each.
    assert len(found) == (16 if base_unet.config.addition_embed_type else 14)
    for name, module in found.items():
        assert isinstance(module, nn.Linear)
        assert base_unet.get_submodule(name) is module
        assert module.in_features == base_unet.config.cross_attention_dim


def test_projections_of_different_widths_are_refused() -> None:
    class Attention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.to_k = nn.Linear(width, 3)

    network = nn.ModuleDict({k: nn.ModuleDict({"attn2": Attention(int(k))}) for k in ("768", "1024")})
    with pytest.raises(ValueError, match=r"expected text states of one width; found \[768, 1024\]"):
        cross_attention_projections(network)


def test_a_network_without_projections_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cross_attention_projections: expected .* found \[\]"):
        cross_attention_projections(nn.ModuleDict({"attn1": nn.Linear(2, 2)}))


@pytest.mark.parametrize(("name", "kind"), [("ddim", DDIMScheduler), ("dpm-solver++", DPMSolverMultistepScheduler)])
def test_a_swapped_scheduler_keeps_the_noise_schedule_and_what_is_predicted(
    base_folder: Path, base_pipeline: DiffusionPipeline, name: str, kind: type
) -> None:
    own = base_pipeline.scheduler
    use_scheduler(base_pipeline, name)
    swapped = base_pipeline.scheduler
    assert type(swapped) is kind
    assert type(own).__name__ == ("EulerDiscreteScheduler" if base_folder.name == "sdxl" else "DDIMScheduler")
    assert torch.equal(swapped.alphas_cumprod, own.alphas_cumprod)
    assert own.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012])
    assert own.config.prediction_type == ("v_prediction" if base_folder.name == "sd2" else "epsilon")
    for key in ("prediction_type", "steps_offset", "timestep_spacing"):
        assert swapped.config[key] == own.config[key], key


def test_a_scheduler_can_be_swapped_again(pipeline: DiffusionPipeline) -> None:
    betas = pipeline.scheduler.betas
    for name, kind in (("dpm-solver++", DPMSolverMultistepScheduler), ("ddim", DDIMScheduler)):
        use_scheduler(pipeline, name)
        assert type(pipeline.scheduler) is kind
        assert torch.equal(pipeline.scheduler.betas, betas)
        assert pipeline.scheduler.config.steps_offset == 1


def test_load_pipeline_has_no_safety_checker_and_says_nothing_of_it(
    sd_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision="float32")
    assert pipeline.safety_checker is None
    assert "safety" not in caplog.text
    assert not pipeline.unet.training


def test_a_watermark_is_left_out(sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as module

    monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(module, "StableDiffusionXLWatermarker", object, raising=False)
    assert DiffusionPipeline.from_pretrained(sdxl_folder).watermark is not None
    assert load_pipeline(str(sdxl_folder), None, device=CPU, precision="float32").watermark is None


def test_load_pipeline_leaves_out_a_checker_that_a_folder_names(sd_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checked"
    shutil.copytree(sd_folder, folder)
    index = folder / "model_index.json"
    names = index.read_text().replace(
        '"safety_checker": [\n    null,\n    null',
        '"safety_checker": [\n    "stable_diffusion",\n    "StableDiffusionSafetyChecker"',
    )
    assert "StableDiffusionSafetyChecker" in names
    index.write_text(names)
    assert load_pipeline(str(folder), None, device=CPU, precision="float32").safety_checker is None


def test_load_pipeline_takes_a_folder_that_never_had_a_checker(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "base")
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for name in ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"):
        del index[name]
    path.write_text(json.dumps(index))
    pipeline = load_pipeline(str(folder), None, device=CPU, precision="float32")
    assert pipeline.safety_checker is None
    assert len(pipeline("a ship", num_inference_steps=1).images) == 1


def test_a_pipeline_that_draws_without_text_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    from diffusers import DDIMPipeline

    own = DDIMScheduler.from_pretrained(sd_folder / "scheduler")
    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet")
    DDIMPipeline(unet=unet, scheduler=own).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reads text with no encoder; a base must be of one of the families"):
        load_pipeline(str(tmp_path), None, device=CPU, precision="float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision_is_that_of_all_weights(sd_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision=precision)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {p.dtype for p in part.parameters()} == {getattr(torch, precision)}


def test_weights_that_are_pickles_are_refused(sd_folder: Path, tmp_path: Path, unet: UNet2DConditionModel) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(sd_folder, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled: it does not load .* whose weights are safetensors"):
        load_pipeline(str(folder), None, device=CPU, precision="float32")


def test_a_base_that_reads_text_otherwise_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(sd_folder, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CLIPTextModel", "T5EncoderModel"))
    text = "other reads text with T5EncoderModel; a base must be of one of the families Stable Diffusion 1.x and 2.x, "
    with pytest.raises(ValueError, match=text):
        load_text(str(folder), None, device=CPU, precision="float32")
    with pytest.raises(ValueError, match="SimpleNamespace reads text with no encoder; a base must be"):
        text_encoders(SimpleNamespace(tokenizer=None))


@pytest.mark.parametrize("hub", [False, True])
def test_describe_reads_the_facts_without_weights(
    base_folder: Path, tmp_path: Path, hub_cache: Callable, hub: bool
) -> None:
    for path in base_folder.rglob("*.json"):
        (tmp_path / path.relative_to(base_folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(base_folder))
    assert describe(*(hub_cache(base_folder) if hub else (str(tmp_path), None))) == {
        "pipeline": f"StableDiffusion{'XL' if base_folder.name == 'sdxl' else ''}Pipeline",
        "cross_attention_dim": 48 if base_folder.name == "sdxl" else 32,
        "window": 77,
        "prediction_type": "v_prediction" if base_folder.name == "sd2" else "epsilon",
    }


# Bad input

CASES = [
    *refusals(
        "a base",
        {
            "U-Net only as a pickle": (
                only_pickle("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
                pipeline_of,
                ("base: it does not load", "whose weights are safetensors"),
            ),
            "text encoder only as a pickle": (
                only_pickle("text_encoder", "model.safetensors", "pytorch_model.bin"),
                text_of,
                ("base: it does not load", "whose weights are safetensors"),
            ),
            "module in its folder called diffusers": (
                with_file("unet/diffusers.py", CODE),
                pipeline_of,
                ("contains custom code in diffusers.py",),
            ),
            "configuration without what it must say": (
                with_file("unet/config.json", "{}"),
                describe_of,
                ("unet/config.json has no 'cross_attention_dim'",),
            ),
        },
        spoilt,
    ),
]


@each_of(CASES)
def test_a_base_of_pickles_or_code_of_its_own_is_refused(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
