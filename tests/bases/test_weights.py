"""Weights of a base, read from its files: those of the network, whatever the files are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from bad_input import PICKLE, UNET, Case, Place, each_of, only_pickle, refusals, spoilt, weights_of, with_file
from conftest import CPU
from lethe.bases.pipeline import load_pipeline, load_text, text_encoders
from lethe.bases.unet import cross_attention_projections
from lethe.bases.weights import projection_weights


def test_projection_weights_are_those_of_the_network(base_folder: Path, base_unet: UNet2DConditionModel) -> None:
    read, found = projection_weights(str(base_folder), None), cross_attention_projections(base_unet)
    assert read.keys() == found.keys()
    assert all(torch.equal(weight, found[name].weight) for name, weight in read.items())


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["10GB", "100KB"])
def test_weights_in_shards_and_in_half_precision_are_read(
    sdxl_folder: Path, tmp_path: Path, hub_cache: Callable, shard: str, variant: str | None
) -> None:
    folder = tmp_path / "base"
    pipeline = load_pipeline(str(sdxl_folder), None, device=CPU, precision="float16" if variant else "float32")
    pipeline.save_pretrained(folder, variant=variant)
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    pipeline.unet.save_pretrained(folder / "unet", variant=variant, max_shard_size=shard)
    files = {path.name for path in (folder / "unet").glob("*.safetensors")}
    assert all((".fp16" in name) == bool(variant) for name in files)
    read, found = projection_weights(str(folder), None, variant=variant), cross_attention_projections(pipeline.unet)
    assert read.keys() == found.keys()
    assert all(torch.equal(weight, found[name].weight) for name, weight in read.items())

    model, revision = hub_cache(folder)
    cached = projection_weights(model, revision, variant=variant)
    assert all(torch.equal(weight, read[name]) for name, weight in cached.items())
    assert cached.keys() == found.keys()
    whole = load_pipeline(str(folder), None, device=CPU, precision="float32", variant=variant)
    alone = load_text(str(folder), None, device=CPU, precision="float32", variant=variant)
    for mine, its in [(whole.unet, pipeline.unet), *zip(alone.encoders, text_encoders(pipeline).encoders, strict=True)]:
        assert all(torch.equal(t, its.state_dict()[name].float()) for name, t in mine.state_dict().items())


def test_projection_weights_of_a_hub_id_come_from_its_revision(
    sd_folder: Path, sd2_folder: Path, hub_cache: Callable
) -> None:
    model, first = hub_cache(sd_folder)
    _, second = hub_cache(sd2_folder)
    for revision, folder in ((first, sd_folder), (second, sd2_folder)):
        found, want = projection_weights(model, revision), projection_weights(str(folder), None)
        assert len(found) == 14
        assert all(torch.equal(weight, want[name]) for name, weight in found.items())


# Bad input


def infinite(base: Path) -> None:
    weights = projection_weights(str(base), None)
    save_file({f"{name}.weight": weight / 0 for name, weight in weights.items()}, base / UNET)


CASES = [
    *refusals(
        "a base",
        {
            "U-Net only as a pickle, for its projections": (
                only_pickle("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
                weights_of,
                ("there is no such safetensors file",),
            ),
            "pickle renamed, for its projections": (
                with_file(UNET, PICKLE),
                weights_of,
                (f"{UNET}: this is no safetensors file",),
            ),
            "projections that are infinite": (infinite, weights_of, ("holds something other than finite",)),
        },
        spoilt,
    ),
]


@each_of(CASES)
def test_projections_that_cannot_be_read_are_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
