"""The check of a model's numbers where they become files or measures, and each place that makes it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from conftest import BRIEF_LORA, CPU
from lethe.bases.pipeline import load_pipeline
from lethe.bases.sampling import sample_rows
from lethe.bases.text import TextEncoders, added_conditions, encode_prompts
from lethe.bases.unet import cross_attention_projections
from lethe.edits.weights import WeightEdit
from lethe.erasure.masks import clipseg_masks
from lethe.erasure.moments import concept_moments
from lethe.finite import mend_of, require_directions, require_finite
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.methods.mace.training import concept_examples, train_lora

NAN, INF = float("nan"), float("inf")
LORA = replace(BRIEF_LORA, steps=30, learning_rate=2e-2)


def spoil(module: torch.nn.Module, value: float = NAN) -> None:
    """Make a module's output NaN, or infinite, from its first weight on."""
    with torch.no_grad():
        next(module.parameters()).fill_(value)


# The check


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_rows_that_are_not_finite_are_counted_and_the_first_is_named(kind, value: float) -> None:
    values = np.ones((4, 2, 3), np.float32)
    require_finite(kind(values), of="states", mend="mend it")
    values[1, 0, 2] = values[3, 1, 1] = value
    with pytest.raises(ValueError, match="^states: 2 of 4 hold NaN or infinity, the first for b; mend it$"):
        require_finite(kind(values), of="states", names=["a", "b", "c", "d"], mend="mend it")


def test_an_embedding_without_a_direction_is_refused() -> None:
    embeddings = np.ones((3, 4), np.float32)
    require_directions(embeddings, of="embeddings", names=["a", "b", "c"], mend="mend it")
    embeddings[2] = 0
    with pytest.raises(ValueError, match="^embeddings: 1 of 3 are zero, the first for c; mend it$"):
        require_directions(embeddings, of="embeddings", names=["a", "b", "c"], mend="mend it")


def test_half_precision_is_told_from_broken_weights() -> None:
    assert "set precision to bfloat16 or float32" in mend_of(torch.float16)
    assert "broken" in mend_of(torch.float32)


# Images


def overflowing(folder: Path, copy: Path, *, factor: float = 1e38) -> Path:
    """A base whose autoencoder overflows behind its last normalisation (F03)."""
    shutil.copytree(folder, copy)
    path = copy / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name in ("decoder.conv_out.weight", "decoder.conv_norm_out.weight"):
        weights[name] = weights[name] * factor
    save_file(weights, path, {"format": "pt"})
    return copy


def test_images_of_an_autoencoder_that_overflows_are_refused(
    base_folder: Path, tmp_path: Path, some_rows: pd.DataFrame
) -> None:
    folder = overflowing(base_folder, tmp_path / "base")
    pipeline = load_pipeline(str(folder), None, device=CPU, precision="float32")
    said = r"sampled images: 2 of 2 hold NaN or infinity, the first for 'a photo of the ship' with seed 1; float32 has"
    with pytest.raises(ValueError, match=said):
        sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=2)


def test_an_infinity_that_the_pipeline_clips_to_white_is_refused(
    pipeline: DiffusionPipeline, some_rows: pd.DataFrame
) -> None:
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(INF)
    plain = pipeline("a ship", num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(1))
    assert np.isfinite(plain.images).all()  # a white picture, to whoever looks behind the clipping only
    with pytest.raises(ValueError, match="4 of 4 hold NaN or infinity"):
        sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)


def test_only_the_rows_concerned_are_counted(
    pipeline: DiffusionPipeline, some_rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pipeline.vae.decoder.forward

    def third(latents: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        image = forward(latents, *more, **named)
        image[2, 0, 5, 5] = NAN
        return image

    monkeypatch.setattr(pipeline.vae.decoder, "forward", third)
    with pytest.raises(ValueError, match=r"1 of 4 hold .*, the first for 'a bird in the sky' with seed 2; "):
        sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)


def test_images_decoded_in_tiles_and_slices_are_checked(pipeline: DiffusionPipeline, some_rows: pd.DataFrame) -> None:
    whole = sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)
    pipeline.vae.enable_slicing()
    sliced = sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)
    assert all(abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(whole, sliced, strict=True))
    pipeline.vae.enable_tiling()
    pipeline.vae.tile_latent_min_size = 4
    assert len(sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)) == 4
    spoil(pipeline.vae.decoder.conv_in)
    with pytest.raises(ValueError, match="4 of 4 hold NaN or infinity"):
        sample_rows(pipeline, some_rows, steps=2, guidance=4.0, batch=4)


# Text


def test_text_states_that_are_not_finite_are_refused(base_pipeline: DiffusionPipeline) -> None:
    names = [name for name in ("text_encoder", "text_encoder_2") if getattr(base_pipeline, name, None) is not None]
    tokenizers = [getattr(base_pipeline, name.replace("text_encoder", "tokenizer")) for name in names]
    text = TextEncoders(tuple(tokenizers), tuple(getattr(base_pipeline, name) for name in names))
    spoil(text.encoders[-1])
    said = "states of prompts: 2 of 2 hold NaN or infinity, the first for 'a photo of the ship'; "
    with pytest.raises(ValueError, match=said):
        list(encode_prompts(text, ["a photo of the ship", "a bird"]))
    with pytest.raises(ValueError, match=said.partition(",")[0].replace("2 of 2", r"\d+ of \d+")):
        concept_moments(text, "ship", "ground", ["a photo of the {}"])
    if len(names) == 2:
        with pytest.raises(ValueError, match="pooled states: 1 of 1 hold NaN"):
            added_conditions(text, ["a ship"], (32, 32))


# Measures and masks


def test_a_judge_that_says_nan_or_nothing_is_refused(clip_folder: Path) -> None:
    image = np.full((32, 32, 3), 90, np.uint8)
    for value, said in ((NAN, "1 of 1 hold NaN or infinity"), (0.0, "1 of 1 are zero")):
        judge = load_judge(str(clip_folder), device=CPU)
        with torch.no_grad():
            judge.model.visual_projection.weight.fill_(value)
            judge.model.text_projection.weight.fill_(value)
        with pytest.raises(
            ValueError, match=f"image embeddings: {said}, the first for 000000.png; the evaluation CLIP's"
        ):
            image_embeddings(judge, iter([image]), ["000000.png"])
        with pytest.raises(ValueError, match=f"text embeddings: {said}, the first for 'a ship'"):
            text_embeddings(judge, ["a ship"])


def test_a_segmenter_that_says_nan_finds_not_nothing_but_is_refused(clipseg_folder: Path) -> None:
    from transformers import AutoImageProcessor, CLIPSegForImageSegmentation, CLIPTokenizer

    clipseg = CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval()
    spoil(clipseg.decoder)
    reader = CLIPTokenizer.from_pretrained(clipseg_folder), AutoImageProcessor.from_pretrained(clipseg_folder)
    with pytest.raises(ValueError, match="CLIPSeg's logits: 2 of 2 hold NaN or infinity, the first for image 0; the"):
        clipseg_masks(clipseg, *reader, [np.zeros((32, 32, 3), np.uint8)] * 2, "a ship", threshold=0.5)


# Edits


@pytest.mark.parametrize("value", [1e5, NAN])
def test_an_edit_that_a_base_in_half_precision_cannot_hold_is_refused(
    unet: UNet2DConditionModel, value: float, tmp_path: Path
) -> None:
    half = unet.half()
    name, projection = next(iter(cross_attention_projections(half).items()))
    before = projection.weight.clone()
    weights = {f"{name}.weight": torch.full(projection.weight.shape, value)}
    edit = WeightEdit(weights, {"base": {"name": "tiny", "fingerprint": "f" * 64}})
    with pytest.raises(
        ValueError, match=f"the edited {name}.weight: 1 of 1 hold NaN or infinity; float16 ends at 65504"
    ):
        edit.install(SimpleNamespace(unet=half), base_fingerprint="f" * 64)
    assert torch.equal(projection.weight, before)
    if value != value:
        with pytest.raises(ValueError, match="edit.safetensors: .* holds something other than finite"):
            edit.save(tmp_path / "edit.safetensors")


# Half precision


def trained(folder: Path, precision: str, **changes: object) -> tuple[dict[str, torch.Tensor], list[float]]:
    pipeline = load_pipeline(str(folder), None, device=CPU, precision=precision)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    masks = [np.arange(32)[:, None] + np.zeros(32) < 20] * 2
    settings = replace(LORA, **changes)
    concept = concept_examples(pipeline, "ship", ["a photo of the {}", "{} in the sky"], images, masks, settings)
    return train_lora(pipeline.unet, pipeline.scheduler.alphas_cumprod, concept, settings)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_lora_in_half_precision_is_nearly_that_of_float32(base_folder: Path, precision: str) -> None:
    """F06. The update itself is compared: what both factors of each projection make together."""
    want, want_curve = trained(base_folder, "float32")
    got, curve = trained(base_folder, precision)
    assert all(tensor.dtype == torch.float32 for tensor in got.values())

    def update(state: dict[str, torch.Tensor]) -> torch.Tensor:
        downs = [name for name in state if "lora_A" in name]
        products = [state[name.replace("lora_A", "lora_B")] @ state[name] for name in downs]
        return torch.cat([product.flatten() for product in products])

    assert update(want).norm() > 0.01
    if "sdxl" not in base_folder.name:  # whose sharp attention sends other roundings elsewhere, as good
        assert (update(got) - update(want)).norm() < 0.15 * update(want).norm()
        assert curve == pytest.approx(want_curve, rel=0.05)
    assert curve[0] == pytest.approx(want_curve[0], rel=0.02)
    assert curve[-1] < 0.95 * curve[0]


def test_gradients_too_small_for_half_precision_survive(sd_folder: Path) -> None:
    """Masks and steps so small that without scaling a good part of the gradient would vanish."""
    loud = trained(sd_folder, "float16", learning_rate=1e-9, steps=2)[0]
    assert all(tensor.isfinite().all() for tensor in loud.values())
    assert sum((tensor != 0).any() for name, tensor in loud.items() if "lora_B" in name) == 13  # all but the idle one


def test_a_scale_that_overflows_is_halved_and_the_step_taken_again(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(sd_folder, "float16", steps=5)
    monkeypatch.setattr("lethe.erasure.training.LARGEST_SCALE", 2.0**40)
    again = trained(sd_folder, "float16", steps=5)
    assert again[1] == pytest.approx(plain[1], rel=0.02)  # the same draws: no step was passed over
    assert len(again[1]) == 5


@pytest.mark.parametrize(
    ("precision", "spoilt", "mend"),
    [
        ("float16", 0, "float16 ends at 65504: set precision to bfloat16 or float32"),
        ("float16", 2, "float16 ends at 65504: set precision to bfloat16 or float32"),
        ("float32", 0, "float32 has room enough: the weights of the base, or an edit of them, are broken"),
        ("float32", 2, r"lower lora\.learning_rate of the method"),
    ],
)
def test_the_remedy_is_the_one_that_helps(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str, spoilt: int, mend: str
) -> None:
    """Before the first update no learning rate can be the cause."""
    from lethe.methods.mace import training as lora

    loss, calls = lora.attention_loss, []

    def spoilt_loss(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return loss(*args, **kwargs) * (NAN if len(calls) > spoilt else 1)

    monkeypatch.setattr(lora, "attention_loss", spoilt_loss)
    with pytest.raises(FloatingPointError, match=f"the loss is nan at step {spoilt}; {mend}$"):
        trained(sd_folder, precision, steps=4)


def test_an_adapter_that_only_the_last_step_spoils_is_not_written(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def spoiling(optimiser: torch.optim.AdamW) -> None:
        step(optimiser)
        calls.append(1)
        if len(calls) == 3:
            optimiser.param_groups[0]["params"][0].data[0] = INF

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiling)
    with pytest.raises(FloatingPointError, match=r"not finite after the last step; lower lora\.learning_rate"):
        trained(sd_folder, "float32", steps=3)
