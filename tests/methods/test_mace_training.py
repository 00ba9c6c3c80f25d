"""LoRA training: its loss against loops, what it learns, and that it leaves the U-Net as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPTokenizer

from conftest import BRIEF_LORA, unet_inputs
from guided import as_read
from lethe.bases.diffusion import encode_images
from lethe.bases.pipeline import text_encoders
from lethe.bases.unet import cross_attention_projections
from lethe.config.schema import defaults_of
from lethe.edits.adapters import WEIGHTS_NAME, load_lora, save_lora
from lethe.erasure.attention import recorded_attention
from lethe.erasure.moments import concept_moments
from lethe.methods.mace.loras import concept_lora
from lethe.methods.mace.training import (
    Examples,
    Preserved,
    attended_tokens,
    attention_loss,
    concept_examples,
    preserved_examples,
    span_of_anchor,
    timestep_weights,
    train_lora,
)
from lethe.plugins import manifest

SETTINGS = BRIEF_LORA


# Timesteps


def test_importance_weights_are_the_formula() -> None:
    weights = timestep_weights("importance", 1000)
    formula = [1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400))) for t in range(1000)]
    assert weights.dtype == torch.float64
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    for got, want in zip(weights.tolist(), formula, strict=True):
        assert got == pytest.approx(want / sum(formula), rel=1e-9, abs=1e-18)


def test_importance_weights_peak_between_200_and_400() -> None:
    weights = timestep_weights("importance", 1000)
    assert weights.argmax().item() == 300
    assert weights[200:401].sum() > 0.85
    for k in range(1, 300):
        assert weights[300 - k].item() == pytest.approx(weights[300 + k].item(), rel=1e-6)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_uniform_weights_are_equal(n: int) -> None:
    assert timestep_weights("uniform", n).tolist() == pytest.approx([1 / n] * n)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="`kind` must be uniform or importance; got 'cosine'"):
        timestep_weights("cosine", 1000)


# Tokens


@pytest.mark.parametrize("use_pooler", [True, False])
@pytest.mark.parametrize("name", ["ship", "Charles-François Daubigny"])
def test_the_loss_looks_at_the_phrase_and_with_the_pooler_at_the_end(
    base_folder: Path, name: str, use_pooler: bool
) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(base_folder / "tokenizer")
    templates = ["a photo of the {}", "{} in the sky", "ship beside {}"]
    chosen = attended_tokens(tokenizer, templates, name, use_pooler=use_pooler)
    assert (chosen.shape, chosen.dtype) == ((3, 77), torch.bool)
    for row, template in zip(chosen.tolist(), templates, strict=True):
        parts = [tokenizer(text, add_special_tokens=False).input_ids for text in template.split("{}")]
        count = len(tokenizer(name, add_special_tokens=False).input_ids)
        start = 1 + len(parts[0])
        end = start + count + len(parts[1])
        assert row == [start <= k < start + count or (use_pooler and k >= end) for k in range(77)]


# The loss


def loss_by_loops(layers: list[Tensor], masks: Tensor, *, squared: bool) -> float:
    """Every image, head, pixel and token; a pixel takes the mask at its own place, rounded down."""
    total = 0.0
    for layer in layers:
        batch, heads, pixels, window = layer.shape
        shrink = next(2**k for k in range(9) if pixels == -(-masks.shape[1] // 2**k) * -(-masks.shape[2] // 2**k))
        height, width = -(-masks.shape[1] // shrink), -(-masks.shape[2] // shrink)
        for image in range(batch):
            energy = 0.0
            for pixel in range(pixels):
                y, x = divmod(pixel, width)
                if masks[image, y * masks.shape[1] // height, x * masks.shape[2] // width]:
                    for head in range(heads):
                        energy += sum(layer[image, head, pixel, token].item() ** 2 for token in range(window))
            total += (energy if squared else math.sqrt(energy)) / batch
    return total


@settings(derandomize=True, max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    levels=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    masked=st.sampled_from([(8, 16), (16, 8), (12, 20), (5, 16)]),  # not square: rows and columns must not be mixed up
    squared=st.booleans(),
)
def test_attention_loss_is_a_loop_over_masked_pixels(
    seed: int, levels: list[int], masked: tuple[int, int], squared: bool
) -> None:
    sizes = [tuple(math.ceil(side / 2**level) for side in masked) for level in levels]
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(2, 3, h * w, 5, generator=generator, dtype=torch.float64) for h, w in sizes]
    masks = torch.rand(2, *masked, generator=generator) < 0.5
    kept = masks.clone(), [layer.clone() for layer in layers]
    got = attention_loss(layers, masks, squared=squared)
    assert got.item() == pytest.approx(loss_by_loops(layers, masks, squared=squared), rel=1e-12)
    assert torch.equal(masks, kept[0])
    assert all(torch.equal(a, b) for a, b in zip(layers, kept[1], strict=True))


def test_a_layer_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_loss: a layer of 30 pixels is no halving of masks of 8 x 16"):
        attention_loss([torch.ones(1, 1, 30, 2)], torch.ones(1, 8, 16, dtype=torch.bool), squared=False)


def test_attention_loss_of_an_empty_mask_is_zero(drawn: Callable[..., Tensor]) -> None:
    layers = [drawn(2, 3, 16, 5)]
    assert attention_loss(layers, torch.zeros(2, 8, 8, dtype=torch.bool), squared=False).item() == 0
    assert attention_loss(layers, torch.ones(2, 8, 8, dtype=torch.bool), squared=False).item() > 0


# Training


def training_data(folder: Path, unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> dict:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 4:28] = True
    tokens = torch.zeros(2, 77, dtype=torch.bool)
    tokens[:, 4:6] = tokens[:, 10:] = True
    inputs = unet_inputs(unet, drawn)
    concept = Examples(
        latents=drawn(3, 4, 8, 8, seed=1).float(),
        masks=masks,
        states=inputs["encoder_hidden_states"],
        tokens=tokens,
        added=inputs["added_cond_kwargs"],
    )
    return dict(alphas=DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod, concept=concept)


@pytest.fixture
def data(sd_folder: Path, unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> dict:
    return training_data(sd_folder, unet, drawn)


@pytest.fixture
def base_data(base_folder: Path, base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> dict:
    return training_data(base_folder, base_unet, drawn)


def attention_in_mask(unet: UNet2DConditionModel, data: dict) -> float:
    """The loss on all images at one noise level, without anything drawn."""
    total, concept = 0.0, data["concept"]
    with torch.no_grad(), recorded_attention(unet) as recorder:
        for prompt in range(2):
            recorder.layers.clear()
            recorder.tokens = concept.tokens[[prompt] * 3]
            added = {name: rows[[prompt] * 3] for name, rows in concept.added.items()}
            unet(concept.latents, 300, concept.states[[prompt] * 3], added_cond_kwargs=added)
            total += attention_loss(recorder.layers, concept.masks, squared=False).item()
    return total


@pytest.mark.parametrize("squared", [False, True])
def test_training_takes_attention_away_from_the_tokens(
    base_pipeline: DiffusionPipeline, base_data: dict, tmp_path: Path, squared: bool
) -> None:
    unet = base_pipeline.unet
    before = attention_in_mask(unet, base_data)
    state, curve = train_lora(unet, **base_data, settings=replace(SETTINGS, squared_norm=squared))
    assert len(curve) == SETTINGS.steps
    assert attention_in_mask(unet, base_data) == before  # it comes off again
    save_lora(tmp_path, state, {})
    base_pipeline.load_lora_weights(tmp_path)
    loaded = attention_in_mask(unet, base_data)
    base_pipeline.unload_lora_weights()
    projections, updates = cross_attention_projections(unet), load_lora(tmp_path / WEIGHTS_NAME)
    assert updates.keys() == projections.keys()
    with torch.no_grad():
        for name, update in updates.items():
            projections[name].weight += update.up @ update.down
    assert attention_in_mask(unet, base_data) == pytest.approx(loaded, rel=1e-4)
    assert loaded < 0.9 * before


def test_each_prompt_comes_with_its_own_conditions(
    sdxl_folder: Path, drawn: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = UNet2DConditionModel.from_pretrained(sdxl_folder / "unet").eval()
    data, seen = training_data(sdxl_folder, unet, drawn), []
    forward = unet.forward

    def watched(x: Tensor, t: Tensor, states: Tensor, *, added_cond_kwargs: dict[str, Tensor]) -> object:
        for state, pooled in zip(states, added_cond_kwargs["text_embeds"], strict=True):
            (prompt,) = (k for k in range(2) if torch.equal(data["concept"].states[k], state))
            assert torch.equal(data["concept"].added["text_embeds"][prompt], pooled)
            seen.append(prompt)
        return forward(x, t, states, added_cond_kwargs=added_cond_kwargs)

    monkeypatch.setattr(unet, "forward", watched)
    train_lora(unet, **data, settings=replace(SETTINGS, batch=6, steps=2))
    assert set(seen) == {0, 1}


def test_training_leaves_the_unet_as_it_was(unet: UNet2DConditionModel, data: dict) -> None:
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    modules = [(name, type(module)) for name, module in unet.named_modules()]
    inputs = copy.deepcopy(data["concept"])
    processors = dict(unet.attn_processors)
    train_lora(unet, **data, settings=replace(SETTINGS, steps=2))
    assert unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())
    assert [(name, type(module)) for name, module in unet.named_modules()] == modules
    assert all(unet.attn_processors[name] is processor for name, processor in processors.items())
    for name in ("latents", "masks", "states", "tokens"):
        assert torch.equal(getattr(data["concept"], name), getattr(inputs, name))


def test_training_twice_gives_the_same_adapter(unet: UNet2DConditionModel, data: dict) -> None:
    torch.manual_seed(1)
    first = train_lora(unet, **data, settings=replace(SETTINGS, steps=3))
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    second = train_lora(unet, **data, settings=replace(SETTINGS, steps=3))
    assert torch.equal(torch.rand(1), expected)  # the global generator is left alone
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(tensor, second[0][name]) for name, tensor in first[0].items())
    other = train_lora(unet, **data, settings=replace(SETTINGS, steps=3, seed=6))
    assert other[1] != first[1]


@pytest.mark.parametrize("rank", [1, 3])
def test_an_adapter_has_one_update_of_its_rank_for_each_projection(
    unet: UNet2DConditionModel, data: dict, tmp_path: Path, rank: int
) -> None:
    state, _ = train_lora(unet, **data, settings=replace(SETTINGS, steps=1, rank=rank))
    save_lora(tmp_path, state, {})
    updates, projections = load_lora(tmp_path / WEIGHTS_NAME), cross_attention_projections(unet)
    assert updates.keys() == projections.keys()
    for name, update in updates.items():
        out, width = projections[name].weight.shape
        assert (update.up.shape, update.down.shape) == ((out, rank), (rank, width))
    # All keys learn; the values of the last layer reach no attention after it.
    idle = [name for name, update in updates.items() if update.up.abs().max() == 0]
    assert idle == ["up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v"]


def test_a_loss_that_is_not_finite_stops_training_and_takes_the_adapter_off(
    unet: UNet2DConditionModel, data: dict
) -> None:
    names, processors = list(unet.state_dict()), dict(unet.attn_processors)
    data["concept"] = replace(data["concept"], latents=data["concept"].latents * torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0; float32 has room enough"):
        train_lora(unet, **data, settings=SETTINGS)
    assert list(unet.state_dict()) == names
    assert all(unet.attn_processors[name] is processor for name, processor in processors.items())


@pytest.mark.parametrize("kind", ["importance", "uniform"])
def test_timesteps_are_drawn_by_their_weights(
    unet: UNet2DConditionModel, data: dict, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: list[int] = []
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda x, t, *a, **k: (seen.extend(t.tolist()), forward(x, t, *a, **k))[1])
    train_lora(unet, **data, settings=replace(SETTINGS, timesteps=kind, batch=30, steps=3))
    inside = sum(150 <= t <= 450 for t in seen) / len(seen)
    assert len(seen) == 90
    assert inside > 0.9 if kind == "importance" else 0.15 < inside < 0.45


def test_gradients_are_shortened_to_the_configured_norm(
    unet: UNet2DConditionModel, data: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(optimiser: torch.optim.AdamW) -> None:
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norms.append(math.sqrt(sum(grad.double().square().sum().item() for grad in grads)))
        step(optimiser)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train_lora(unet, **data, settings=replace(SETTINGS, steps=4, max_grad_norm=1e9))
    free = max(norms)
    norms.clear()
    train_lora(unet, **data, settings=replace(SETTINGS, steps=4, max_grad_norm=free / 10))
    assert max(norms) == pytest.approx(free / 10, rel=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_preserved_images_add_their_weighted_denoising_error(
    unet: UNet2DConditionModel,
    data: dict,
    drawn: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    prediction: str,
) -> None:
    kept = Preserved(drawn(3, 4, 8, 8, seed=7).float(), drawn(3, 77, 32, seed=8).float(), {}, prediction)
    calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    forward = unet.forward

    def watched(x: Tensor, t: Tensor, states: Tensor, **more: object) -> object:
        output = forward(x, t, states, **more)
        calls.append((x, t, states, output.sample.detach()))
        return output

    monkeypatch.setattr(unet, "forward", watched)
    settings = replace(SETTINGS, steps=1, batch=4)
    alone = train_lora(unet, **data, settings=settings)[1][0]
    calls.clear()
    both = train_lora(unet, **data, settings=replace(settings, preservation_weight=3.0), preserved=kept)[1][0]
    (_, (noisy, times, states, predicted)) = calls
    errors = []
    for row in range(4):
        (image,) = (k for k in range(3) if torch.equal(kept.states[k], states[row]))
        a = data["alphas"][times[row]].double().item()
        clean = kept.latents[image].double()
        noise = (noisy[row].double() - math.sqrt(a) * clean) / math.sqrt(1 - a)
        assert 0.5 < noise.std().item() < 1.5
        target = noise if prediction == "epsilon" else math.sqrt(a) * noise - math.sqrt(1 - a) * clean
        errors.append((predicted[row].double() - target).square().mean().item())
    assert both - alone == pytest.approx(3 * sum(errors) / 4, rel=1e-3)


# A down half kept off the anchor

ANCHORED = ["a photo of the {}", "{} in the sky", "ship beside {}"]


def states_of_anchor(pipeline: DiffusionPipeline, anchor: str) -> Tensor:
    """What the U-Net reads of the anchor's own tokens, `[n, d]`, prompt by prompt."""
    tokenizer, found = pipeline.tokenizer, []
    for template in ANCHORED:
        first = 1 + len(tokenizer(template.split("{}")[0], add_special_tokens=False).input_ids)
        count = len(tokenizer(anchor, add_special_tokens=False).input_ids)
        found.append(as_read(pipeline, template.replace("{}", anchor))[0][0, first : first + count])
    return torch.cat(found).double()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_down_half_kept_off_the_anchor_does_nothing_to_its_tokens(
    base_pipeline: DiffusionPipeline, base_data: dict, precision: str, rank: int
) -> None:
    """Its rows are those that a LoRA begins with, less their least-squares fit by the anchor's states, as long."""
    pipeline, dtype = base_pipeline.to(getattr(torch, precision)), getattr(torch, precision)
    concept = base_data["concept"]
    concept = replace(
        concept,
        latents=concept.latents.to(dtype),
        states=concept.states.to(dtype),
        added={k: v.to(dtype) for k, v in concept.added.items()},
    )
    base_data["concept"] = concept
    span = span_of_anchor(text_encoders(pipeline), ANCHORED, "open ground")
    settings = replace(SETTINGS, rank=rank, steps=1)
    begun = train_lora(pipeline.unet, **base_data, settings=replace(settings, learning_rate=1e-30))[0]
    short = train_lora(pipeline.unet, **base_data, settings=settings, untouched=span)[0]
    state, curve = train_lora(pipeline.unet, **base_data, settings=replace(settings, steps=20), untouched=span)
    states = states_of_anchor(pipeline, "open ground").detach()
    assert len(states) == 15  # five tokens in each of three prompts
    assert state.keys() == begun.keys()
    moved = 0
    for key, half in state.items():
        assert half.dtype == torch.float32
        if "lora_B" in key:
            moved += bool(half.any())
            continue
        assert torch.equal(half, short[key])  # bit for bit what it was after one step
        rows = begun[key].double()
        free = rows - (states.mT @ torch.linalg.lstsq(states.mT, rows.mT).solution).mT
        free *= rows.norm(dim=1, keepdim=True) / free.norm(dim=1, keepdim=True)
        assert torch.allclose(half.double(), free, rtol=0, atol=1e-6)
        assert (half.double() @ states.mT).abs().max() < 1e-5 * (rows @ states.mT).abs().max()
    assert moved == len(state) / 2 - 1  # the values of the last layer reach no attention after it
    assert all(math.isfinite(loss) for loss in curve)


def test_training_with_a_frozen_down_half_takes_attention_away(
    base_pipeline: DiffusionPipeline, base_data: dict, tmp_path: Path
) -> None:
    unet = base_pipeline.unet
    span, before = span_of_anchor(text_encoders(base_pipeline), ANCHORED, "ground"), attention_in_mask(unet, base_data)
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    settings = replace(SETTINGS, rank=8, steps=40, learning_rate=0.2)  # random rows see little of the tokens
    state, _ = train_lora(unet, **base_data, settings=settings, untouched=span)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())
    save_lora(tmp_path, state, {})
    base_pipeline.load_lora_weights(tmp_path)
    assert attention_in_mask(unet, base_data) < 0.95 * before
    base_pipeline.unload_lora_weights()


def test_an_anchor_that_leaves_no_direction_is_refused(pipeline: DiffusionPipeline) -> None:
    words = ["ship", "sky", "bird", "photo", "wide", "street"]
    templates = [f"{a} {b} {{}} {b}" for a in words for b in words]
    with torch.no_grad():  # as in trained encoders; without it the last norm keeps states off one direction
        pipeline.text_encoder.final_layer_norm.bias += 0.1
    told = "supl: the tokens of the anchor 'ground' in 36 prompts span all 32 directions of the text, so that none is"
    with pytest.raises(ValueError, match=told):
        span_of_anchor(text_encoders(pipeline), templates, "ground")


def test_a_concepts_lora_keeps_off_its_anchor_where_it_should(pipeline: DiffusionPipeline) -> None:
    """By the settings of a configuration; under the default no anchor counts."""
    text, anchor = text_encoders(pipeline), "open ground"
    settings = defaults_of(manifest("methods", "mace").settings) | {"seed": 5}
    given = dict(
        images=list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)),
        masks=[np.ones((32, 32), dtype=bool)] * 2,
        templates=ANCHORED,
        moments=[concept_moments(text, "ship", anchor, ANCHORED)],
        priors=[None, None],
    )
    found = {}
    for form in ("mace", "supl"):
        chosen = settings | {"lora": settings["lora"] | {"steps": 3, "form": form}}
        found[form] = concept_lora(pipeline, "ship", chosen, anchor=anchor, **given)[0]
    states = states_of_anchor(pipeline, anchor)
    downs = {form: [half for key, half in state.items() if "lora_A" in key] for form, state in found.items()}
    for kept, free in zip(downs["supl"], downs["mace"], strict=True):
        assert (kept.double() @ states.mT).abs().max() < 1e-5 * (free.double() @ states.mT).abs().max()
    without = {key: value for key, value in settings["lora"].items() if key != "form"}
    same = concept_lora(pipeline, "ship", settings | {"lora": without | {"steps": 3}}, **given)[0]
    assert all(torch.equal(half, found["mace"][key]) for key, half in same.items())


# Images and prompts to examples


def test_examples_pair_states_with_tokens_and_images_with_masks(pipeline: DiffusionPipeline) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    masks = [np.arange(32)[:, None] + np.zeros(32) < level for level in (4, 9, 30)]
    templates = ["a photo of the {}", "{} in the sky"]
    examples = concept_examples(pipeline, "ship", templates, images, masks, SETTINGS)
    assert examples.latents.shape == (3, 4, 8, 8)
    assert [mask.sum().item() for mask in examples.masks] == [4 * 32, 9 * 32, 30 * 32]
    assert (examples.states.shape, examples.tokens.shape) == ((2, 77, 32), (2, 77))
    for row, prompt in enumerate(["a photo of the ship", "ship in the sky"]):
        states, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        assert torch.allclose(examples.states[row], states[0], atol=1e-5)
    assert not torch.equal(examples.tokens[0], examples.tokens[1])
    symmetric = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1 for image in images])
    assert torch.allclose(examples.latents, encode_images(pipeline.vae, symmetric, seed=SETTINGS.seed), atol=1e-5)
    published = concept_examples(pipeline, "ship", templates, images, masks, replace(SETTINGS, pixels="imagenet"))
    assert (published.latents - examples.latents).abs().max() > 1e-3


def test_preserved_examples_pair_each_image_with_its_prompt(pipeline: DiffusionPipeline) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    kept = preserved_examples(pipeline, ["the sky", "a wide street"], images, SETTINGS)
    assert (kept.latents.shape, kept.states.shape, kept.added, kept.prediction) == (
        (2, 4, 8, 8),
        (2, 77, 32),
        {},
        "epsilon",
    )
    for row, prompt in enumerate(["the sky", "a wide street"]):
        assert torch.allclose(kept.states[row], pipeline.encode_prompt(prompt, "cpu", 1, False)[0][0], atol=1e-5)


# Images to latents


def test_encoded_images_are_draws_around_the_mean(pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]) -> None:
    pixels = drawn(2, 3, 32, 32).float().clamp(-1, 1)
    latents = encode_images(pipeline.vae, pixels, seed=3)
    assert latents.shape == (2, 4, 8, 8)
    assert torch.equal(latents, encode_images(pipeline.vae, pixels, seed=3))
    assert not torch.equal(latents, encode_images(pipeline.vae, pixels, seed=4))
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
    scale = pipeline.vae.config.scaling_factor
    noise = (latents / scale - posterior.mean) / posterior.std
    assert torch.allclose(noise, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), atol=1e-2)


def test_an_autoencoder_that_overflows_in_half_precision_encodes_in_float32(
    sdxl_folder: Path, drawn: Callable[..., Tensor]
) -> None:
    pixels = drawn(1, 3, 32, 32).float().clamp(-1, 1)
    vae = AutoencoderKL.from_pretrained(sdxl_folder / "vae")
    with torch.no_grad():
        first = vae.encoder.conv_in.weight
        first *= 3e4 / first.abs().max()  # the next layer normalises, but float16 ends at 65504
    vae = vae.half()
    want = encode_images(copy.deepcopy(vae).float(), pixels, seed=3)
    latents = encode_images(vae, pixels, seed=3)
    assert latents.dtype == vae.dtype == torch.float16
    assert torch.allclose(latents.float(), want, rtol=2e-3, atol=1e-3)
    assert vae.config.scaling_factor == 0.13025
    vae.register_to_config(force_upcast=False)
    with pytest.raises(ValueError, match="latents of training images: 1 of 1 hold NaN or infinity; float16 ends at"):
        encode_images(vae, pixels, seed=3)


@pytest.mark.parametrize("squared", [True, False])
def test_a_mask_that_vanishes_in_a_coarse_layer_leaves_the_gradient_finite(squared: bool) -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 1, 1] = True  # nearest-neighbour resizing to 2x2 drops it, to 8x8 keeps it
    layers = [torch.rand(1, 2, pixels, 3, requires_grad=True) for pixels in (4, 64)]
    attention_loss(layers, masks, squared=squared).backward()
    assert layers[0].grad.abs().max() == 0
    assert layers[1].grad.isfinite().all()
    assert layers[1].grad.abs().max() > 0
