"""Sampling: a row's image is that row's own, wherever it stands and whatever is sampled with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from conftest import CPU
from lethe.bases.pipeline import load_pipeline, offload, text_encoders
from lethe.bases.sampling import sample_rows
from lethe.bases.text import encode_prompts

OPTIONS = dict(steps=3, guidance=6.0)


def largest(a: np.ndarray, b: np.ndarray) -> int:
    return int(abs(a.astype(int) - b.astype(int)).max())


def test_a_row_is_what_the_pipeline_makes_of_its_prompt_and_seed(
    base_pipeline: DiffusionPipeline, some_rows: pd.DataFrame
) -> None:
    images = sample_rows(base_pipeline, some_rows, batch=1, **OPTIONS)
    assert len(images) == 4
    for image, row in zip(images, some_rows.itertuples(), strict=True):
        want = base_pipeline(
            row.prompt,
            num_inference_steps=3,
            guidance_scale=6.0,
            generator=torch.Generator().manual_seed(row.evaluation_seed),
        ).images[0]
        assert image.dtype == np.uint8
        assert image.shape == (32, 32, 3)
        assert np.array_equal(image, np.asarray(want))


def test_prompt_seed_steps_and_guidance_each_matter(pipeline: DiffusionPipeline) -> None:
    def image(prompt: str = "a ship", seed: int = 1, steps: int = 3, guidance: float = 6.0) -> np.ndarray:
        row = pd.DataFrame({"prompt": [prompt], "evaluation_seed": [seed]})
        return sample_rows(pipeline, row, steps=steps, guidance=guidance, batch=1)[0]

    first = image()
    for change in (dict(prompt="a bird"), dict(seed=2), dict(steps=4), dict(guidance=1.5)):
        assert largest(image(**change), first) > 1, change


@pytest.mark.parametrize("batch", [2, 3, 4, 9])
def test_an_image_does_not_depend_on_its_place_or_its_batch(
    base_pipeline: DiffusionPipeline, some_rows: pd.DataFrame, batch: int
) -> None:
    alone = sample_rows(base_pipeline, some_rows, batch=1, **OPTIONS)
    turned = sample_rows(base_pipeline, some_rows.iloc[::-1], batch=batch, **OPTIONS)[::-1]
    part = sample_rows(base_pipeline, some_rows.iloc[2:], batch=batch, **OPTIONS)
    for k in range(4):
        assert largest(alone[k], turned[k]) <= 1
        assert k < 2 or largest(alone[k], part[k - 2]) <= 1
    assert min(largest(alone[j], alone[k]) for j in range(4) for k in range(j)) > 1  # rows differ


def test_sampling_twice_gives_the_same_bytes(pipeline: DiffusionPipeline, some_rows: pd.DataFrame) -> None:
    before = some_rows.copy()
    torch.manual_seed(1)
    first = sample_rows(pipeline, some_rows, batch=3, **OPTIONS)
    torch.manual_seed(2)
    second = sample_rows(pipeline, some_rows, batch=3, **OPTIONS)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    pd.testing.assert_frame_equal(some_rows, before)


def test_sampling_with_a_stateful_solver_starts_anew_each_batch(
    pipeline: DiffusionPipeline, some_rows: pd.DataFrame
) -> None:
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    together = sample_rows(pipeline, some_rows, batch=4, **OPTIONS)
    alone = sample_rows(pipeline, some_rows, batch=1, **OPTIONS)
    assert max(largest(a, b) for a, b in zip(together, alone, strict=True)) <= 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddim", "dpm-solver++"])
def test_a_network_that_predicts_velocity_is_sampled_as_such(
    sd2_folder: Path, some_rows: pd.DataFrame, name: str
) -> None:
    """One step from pure noise: x0 = sqrt(a) x - sqrt(1 - a) v, whatever sampler replaces the base's own."""
    pipeline = load_pipeline(str(sd2_folder), None, device=CPU, precision="float32", scheduler=name)
    pipeline.scheduler.register_to_config(timestep_spacing="trailing")
    found: list[torch.Tensor] = []
    decode = pipeline.vae.decode
    pipeline.vae.decode = lambda latents, **options: (found.append(latents), decode(latents, **options))[1]
    sample_rows(pipeline, some_rows.iloc[:1], steps=1, guidance=1.0, batch=1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    (states,) = encode_prompts(text_encoders(pipeline), [some_rows["prompt"][0]])
    velocity, alphas = pipeline.unet(noise, 999, states).sample, pipeline.scheduler.alphas_cumprod
    image = alphas[999].sqrt() * noise - (1 - alphas[999]).sqrt() * velocity
    rest = (1 - alphas[999]).sqrt() * noise + alphas[999].sqrt() * velocity
    end = alphas[0] if name == "ddim" else torch.tensor(1.0)  # Stable Diffusion's DDIM ends at the first noise level
    want = end.sqrt() * image + (1 - end).sqrt() * rest
    assert torch.allclose(found[0] * pipeline.vae.config.scaling_factor, want, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_rows_with_settings_of_their_own_are_sampled_with_them_in_their_order(
    base_pipeline: DiffusionPipeline, batch: int
) -> None:
    own = [(7.5, 32, 32), (2.0, 32, 40), (7.5, 32, 32), (255.0, 32, 40), (2.0, 32, 40)]
    rows = pd.DataFrame(own, columns=["guidance", "width", "height"])
    rows = rows.assign(prompt=[f"a ship {k}" for k in range(5)], evaluation_seed=range(5))
    together = sample_rows(base_pipeline, rows, batch=batch, **OPTIONS)
    assert [image.shape for image in together] == [(height, width, 3) for _, width, height in own]
    for image, row in zip(together, rows.itertuples(), strict=True):
        want = base_pipeline(
            row.prompt,
            num_inference_steps=3,
            guidance_scale=row.guidance,
            width=row.width,
            height=row.height,
            generator=torch.Generator().manual_seed(row.evaluation_seed),
        ).images[0]
        assert largest(image, np.asarray(want)) <= 1


def test_a_rows_own_guidance_alone_and_that_of_all_give_the_same_bytes(
    pipeline: DiffusionPipeline, some_rows: pd.DataFrame
) -> None:
    plain = sample_rows(pipeline, some_rows, batch=3, **OPTIONS)
    named = sample_rows(pipeline, some_rows.assign(guidance=6.0), batch=3, steps=3, guidance=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(plain, named, strict=True))


def test_no_rows_give_no_images(pipeline: DiffusionPipeline, some_rows: pd.DataFrame) -> None:
    assert sample_rows(pipeline, some_rows.iloc[:0], batch=2, **OPTIONS) == []


def test_seeds_of_any_size_and_odd_prompts_are_sampled(pipeline: DiffusionPipeline) -> None:
    rows = pd.DataFrame({"prompt": ["", "NA", "🦋 \n '\""], "evaluation_seed": [0, 2**31, 4_196_746_483]})
    assert len(sample_rows(pipeline, rows, batch=3, **OPTIONS)) == 3


def test_decoding_one_by_one_rounds_otherwise_and_tiles_show(
    pipeline: DiffusionPipeline, some_rows: pd.DataFrame
) -> None:
    """Tiles only of images larger than the autoencoder was made for; afterwards it decodes as before."""
    calls: list[int] = []
    pipeline.vae.decoder.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    whole = np.stack(sample_rows(pipeline, some_rows, batch=4, **OPTIONS))
    sliced = np.stack(sample_rows(pipeline, some_rows, batch=4, vae_slicing=True, **OPTIONS))
    assert calls == [4, 1, 1, 1, 1]
    assert largest(whole, sliced) <= 1
    pipeline.vae.tile_latent_min_size = pipeline.unet.config.sample_size
    same = np.stack(sample_rows(pipeline, some_rows, batch=4, vae_tiling=True, **OPTIONS))
    assert np.array_equal(whole, same)
    pipeline.vae.tile_latent_min_size //= 2
    pipeline.vae.tile_sample_min_size = 16
    tiled = np.stack(sample_rows(pipeline, some_rows, batch=4, vae_tiling=True, **OPTIONS))
    assert largest(whole, tiled) > 1
    assert np.array_equal(whole, np.stack(sample_rows(pipeline, some_rows, batch=4, **OPTIONS)))
    pipeline.vae.enable_slicing()
    sample_rows(pipeline, some_rows[:1], batch=1, vae_tiling=True, **OPTIONS)
    assert (pipeline.vae.use_slicing, pipeline.vae.use_tiling) == (True, False)


def test_parts_that_wait_elsewhere_draw_the_same(
    base_folder: Path, base_pipeline: DiffusionPipeline, some_rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By diffusers' own hooks, which move parts from the CPU to the CPU here."""
    want = sample_rows(base_pipeline, some_rows, batch=4, **OPTIONS)
    with pytest.raises(
        ValueError, match=r"^offload is true, and models run on the CPU of .*; set offload to false, or "
    ):
        offload(base_pipeline, CPU)
    moving = load_pipeline(str(base_folder), None, device=CPU, precision="float32")
    enable, asked = moving.enable_model_cpu_offload, []
    monkeypatch.setattr(moving, "enable_model_cpu_offload", lambda device: (asked.append(device), enable(device="cpu")))
    offload(moving, torch.device("cuda"))
    assert asked == [torch.device("cuda")]
    assert hasattr(moving.unet, "_hf_hook")
    assert np.array_equal(want, sample_rows(moving, some_rows, batch=4, **OPTIONS))


def test_offloading_names_the_package_that_it_lacks(
    pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(device: torch.device) -> None:
        raise ImportError("`enable_model_cpu_offload` requires `accelerate v0.17.0` or higher.")

    monkeypatch.setattr(pipeline, "enable_model_cpu_offload", lacking)
    with pytest.raises(
        ValueError, match=r"^offload needs a package \(.*\); install accelerate, or set offload to false$"
    ):
        offload(pipeline, torch.device("cuda"))
