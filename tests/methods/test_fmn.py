"""FMN: its loss from attention by hand, words learned from images, what trains, and that nothing else moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

import lethe
from closed import planned
from conftest import CPU, IMAGE, WINDOW, unet_inputs
from guided import as_read
from lethe.bases.base import Base
from lethe.bases.denoising import conditions_of
from lethe.bases.pipeline import load_pipeline, text_encoders
from lethe.edits.weights import WeightEdit
from lethe.erasure import training
from lethe.erasure.noising import Pictures
from lethe.inputs.concepts import Concept
from lethe.methods import fmn
from lethe.methods.mace.training import attention_loss
from lethe.plugins import manifest
from trained import WORLD, cut_off, ships

RULES = manifest("methods", "fmn").settings["properties"]
INVERSION = {name: rule["default"] for name, rule in RULES["inversion"]["properties"].items()}
DEFAULTS = {name: rule["default"] for name, rule in RULES.items() if name != "inversion"}
DEFAULTS |= {"inversion": INVERSION | {"steps": 2}, "seed": 5}
BRIEF = dict(steps=3, learning_rate=1e-3)
SHIP = Concept("ship", "object", "ground")
LONG = Concept("pink-bird's", "style", "art")
IMAGES = {"count": 2, "steps": 2, "guidance": 2.0}


def pictures(concepts: list[Concept]) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [list(rng.integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)) for _ in concepts]


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] | None = None, **changes: object) -> dict[str, Tensor]:
    chosen = [SHIP] if concepts is None else concepts
    reads = {"images": pictures(chosen)}
    return fmn.erase(Base.of_pipeline(pipeline), chosen, DEFAULTS | BRIEF | changes, reads).weights


def named(**changes: object) -> dict:
    return {"textual_inversion": False, **changes}


# The loss


class Watched:
    """Attention in float64 from queries and keys on; every cross-attention leaves its probabilities `[b, h, p, w]`."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        def split(rows: Tensor) -> Tensor:
            return rows.double().unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q, k, v = (
            split(part)
            for part in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        probabilities = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        self.seen.append(probabilities)
        out = (probabilities @ v).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[0](out)


def latents_of(pipeline: DiffusionPipeline, concepts: list[Concept]) -> Tensor:
    found = []
    for images in pictures(concepts):
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            posteriors = [pipeline.vae.encode(one[None]).latent_dist for one in pixels]
        drawn = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        means, deviations = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mean", "std"))
        found.append((means + deviations * drawn) * pipeline.vae.config.scaling_factor)
    return torch.cat(found)


def places(pipeline: DiffusionPipeline, prompt: str, name: str, *, pooler: bool) -> list[int]:
    """Where a prompt's name ends it, by counting tokens, and where the end of text stands."""
    tokenizer = pipeline.tokenizer
    ids = tokenizer(prompt, padding="max_length")["input_ids"]
    end = ids.index(tokenizer.eos_token_id)
    before = len(tokenizer(prompt.removesuffix(name).strip())["input_ids"]) - 1
    ends = [k for k, token in enumerate(ids) if token == tokenizer.eos_token_id] if pooler else []
    return [*range(before, end), *ends]


def norm_by_hand(
    pipeline: DiffusionPipeline, student: UNet2DConditionModel, clean: Tensor, asked: list, drawn: torch.Generator
) -> Tensor:
    which = int(torch.randint(len(clean), (), generator=drawn))
    time = torch.randint(1000, (1,), generator=drawn)
    noise = torch.randn(1, 4, 8, 8, generator=drawn)
    a = torch.cumprod(1 - pipeline.scheduler.betas.double(), 0)[time]
    seen = (a.sqrt() * clean[which] + (1 - a).sqrt() * noise).float()
    prompt, chosen = asked[which // 2]
    watched, own = Watched(), dict(student.attn_processors)
    student.set_attn_processor({name: watched if ".attn2." in name else own[name] for name in own})
    states, added = as_read(pipeline, prompt)
    student(seen, time, encoder_hidden_states=states, added_cond_kwargs=added)
    return sum((layer[..., chosen] ** 2).sum() for layer in watched.seen).sqrt()


@pytest.mark.parametrize("changes", [dict(parameters="x"), dict(parameters="all", use_pooler=False)])
def test_every_step_follows_the_gradient_of_the_formula(
    base_pipeline: DiffusionPipeline, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain descent in place of AdamW, against a copy of the U-Net that is changed in place."""
    monkeypatch.setitem(training.OPTIMISERS, "adamw", torch.optim.SGD)
    concepts = [SHIP, Concept("bird", "style", "art")]
    found = erased(base_pipeline, concepts, **named(steps=4, learning_rate=0.1), **changes)
    pooler = changes.get("use_pooler", True)
    prompts = ["a photo of ship", "a photo in the style of bird"]
    asked = [(p, places(base_pipeline, p, p.split()[-1], pooler=pooler)) for p in prompts]
    student, drawn = copy.deepcopy(base_pipeline.unet).requires_grad_(True), torch.Generator().manual_seed(5)
    clean, trained = latents_of(base_pipeline, concepts), {name: student.get_parameter(name) for name in found}
    for _ in range(4):
        loss = norm_by_hand(base_pipeline, student, clean, asked, drawn)
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        size = sum(g.double().square().sum() for g in gradients if g is not None).sqrt().item()
        with torch.no_grad():
            for parameter, gradient in zip(trained.values(), gradients, strict=True):
                if gradient is not None:  # shortened to a length of 1, then weight decay as plain descent has it
                    parameter -= 0.1 * (gradient * min(1, 1 / size) + 0.01 * parameter)
    for name, weight in found.items():
        before = base_pipeline.unet.get_parameter(name).detach()
        moved = trained[name].detach() - before
        assert torch.linalg.vector_norm(weight - before - moved) <= 2e-2 * torch.linalg.vector_norm(moved) + 1e-5, name
    assert any(not torch.equal(weight, base_pipeline.unet.get_parameter(name)) for name, weight in found.items())


def test_one_norm_over_all_layers_is_not_the_sum_of_theirs(drawn: Callable[..., Tensor]) -> None:
    """With nothing masked MACE sums the norms of layers; this is the root of the sum of their squares."""
    layers = [drawn(1, 2, 16, 5, seed=1).abs(), drawn(1, 2, 4, 5, seed=2).abs()]
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    norms = [attention_loss([layer], everywhere, squared=False).item() for layer in layers]
    assert fmn.attention_norm(layers).item() == pytest.approx(math.hypot(*norms), rel=1e-6)
    assert attention_loss(layers, everywhere, squared=False).item() == pytest.approx(sum(norms), rel=1e-6)


def test_what_lies_behind_the_last_attention_stays(pipeline: DiffusionPipeline) -> None:
    """No probability depends on it, so it has no gradient and no weight decay."""
    found, before = erased(pipeline, **named(parameters="all")), dict(pipeline.unet.named_parameters())
    last = "up_blocks.1.attentions.1."
    block = f"{last}transformer_blocks.0."
    behind = [f"{block}attn2.to_v.", f"{block}attn2.to_out.", f"{block}norm3.", f"{block}ff.", f"{last}proj_out."]
    behind = (*behind, "conv_norm_out.", "conv_out.")
    same = {name for name, weight in found.items() if torch.equal(weight, before[name])}
    assert same == {name for name in before if name.startswith(behind)}
    assert found.keys() == before.keys()


# The tokens


@pytest.mark.parametrize("pooler", [True, False])
def test_the_loss_looks_at_the_words_wherever_they_stand_and_at_the_end(
    base_pipeline: DiffusionPipeline, pooler: bool
) -> None:
    text = text_encoders(base_pipeline)
    for concept, prompt in (
        (Concept("photo", "object", "x"), "a photo of photo"),
        (Concept("Ship of photo", "style", "x"), "a photo in the style of ship of photo"),
    ):
        words = fmn.words_for(text, concept, None)
        found = fmn.looked_at(text.tokenizer, words, use_pooler=pooler)
        expected = places(base_pipeline, prompt, concept.name.lower(), pooler=pooler)
        if concept.name == "photo":
            expected = [2, *expected]  # "a photo": start of text and "a" are before it
        assert words.prompt.lower() == prompt
        assert found.shape == (1, WINDOW)
        assert found[0].nonzero().flatten().tolist() == sorted(expected)
    ends = int(fmn.looked_at(text.tokenizer, fmn.words_for(text, SHIP, None), use_pooler=True).sum()) - 1
    padded_with_end = text.tokenizer.pad_token_id == text.tokenizer.eos_token_id
    assert ends == (WINDOW - 5 if padded_with_end else 1)  # 5: start of text, a photo of ship


def test_the_name_that_is_too_long_is_refused(pipeline: DiffusionPipeline) -> None:
    told = r"fmn: 'a photo of ship' needs 85 tokens, 80 of them in the name's place; .*: lower inversion\.tokens"
    with pytest.raises(ValueError, match=told):
        erased(pipeline, inversion=INVERSION | {"tokens": 80})
    with pytest.raises(ValueError, match="use a shorter name or template"):
        erased(pipeline, [Concept("ship " * 80, "object", "ground")], **named())
    with pytest.raises(ValueError, match="fmn: `concepts` must hold at least one concept; got none"):
        erased(pipeline, [])


# Textual inversion


def extended(pipeline: DiffusionPipeline, learned: dict[str, Tensor]) -> DiffusionPipeline:
    """A copy whose tokenizers and text encoders know new words <s0>, <s1>, ... with these embeddings."""
    grown = copy.deepcopy(pipeline)
    pairs = [(grown.tokenizer, grown.text_encoder)]
    if getattr(grown, "tokenizer_2", None) is not None:
        pairs.append((grown.tokenizer_2, grown.text_encoder_2))
    for number, (tokenizer, encoder) in enumerate(pairs):
        values = learned[str(number)]
        tokenizer.add_tokens([f"<s{k}>" for k in range(len(values))])
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            encoder.get_input_embeddings().weight[-len(values) :] = values
    return grown


def beginnings(pipeline: DiffusionPipeline, concept: Concept, tokens: int) -> tuple:
    text = text_encoders(pipeline)
    words = fmn.words_for(text, concept, tokens)
    return text, words, fmn.beginnings(text, words, concept.name, seed=3)


@torch.no_grad()
@pytest.mark.parametrize("concept", [SHIP, LONG])
def test_learned_words_are_read_as_words_of_a_larger_vocabulary(
    base_pipeline: DiffusionPipeline, concept: Concept
) -> None:
    text, words, values = beginnings(base_pipeline, concept, 3)
    grown = extended(base_pipeline, values)
    prompt = "a photo in the style of <s0><s1><s2>" if concept.kind == "style" else "a photo of <s0><s1><s2>"
    states, added = as_read(grown, prompt)
    sizes = conditions_of(text, [words.prompt], (32, 32)).added
    found = fmn.with_words(text, words, values, sizes)
    assert torch.allclose(found.states, states, atol=1e-5)
    assert found.added.keys() == added.keys()
    assert all(torch.allclose(found.added[name], value, atol=1e-5) for name, value in added.items())
    assert not torch.allclose(found.states, conditions_of(text, [words.prompt], (32, 32)).states, atol=1e-2)
    assert not any(encoder.get_input_embeddings()._forward_hooks for encoder in text.encoders)


def test_the_first_words_begin_as_the_name_the_others_at_random(base_pipeline: DiffusionPipeline) -> None:
    text, _, values = beginnings(base_pipeline, Concept("ground ship", "object", "x"), 4)
    for number, (tokenizer, encoder) in enumerate(zip(text.tokenizers, text.encoders, strict=True)):
        table = encoder.get_input_embeddings().weight.detach()
        name = table[tokenizer("ground ship", add_special_tokens=False)["input_ids"]].mean(0)
        first, second, third, fourth = values[str(number)].detach()
        assert torch.allclose(first, name)
        assert torch.equal(first, second)
        assert not torch.allclose(third, fourth, atol=1e-2)
        assert third.std().item() == pytest.approx(table.std().item(), rel=0.6)


def test_words_are_learned_by_what_the_unet_predicts(
    base_pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step and its gradient, against a pipeline with a larger vocabulary; and nobody else has one."""
    steps = []
    monkeypatch.setattr(fmn, "train", lambda values, loss, *_, seed, **__: steps.append((values, loss, seed)))
    erased(base_pipeline)
    (values, loss_of_step, seed), _ = steps
    found = loss_of_step(torch.Generator().manual_seed(seed))
    found.backward()
    gradients = [value.grad for value in values.values()]
    parts = [base_pipeline.unet, *text_encoders(base_pipeline).encoders]
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())

    grown = extended(base_pipeline, values)
    drawn = torch.Generator().manual_seed(seed)
    which, time = int(torch.randint(2, (), generator=drawn)), torch.randint(1000, (1,), generator=drawn)
    noise, clean = torch.randn(1, 4, 8, 8, generator=drawn), latents_of(base_pipeline, [SHIP])
    a = torch.cumprod(1 - grown.scheduler.betas.double(), 0)[time]
    true = noise.double()
    if grown.scheduler.config.prediction_type == "v_prediction":
        true = a.sqrt() * noise - (1 - a).sqrt() * clean[which]
    states, added = as_read(grown, "a photo of <s0><s1><s2><s3>")
    seen = (a.sqrt() * clean[which] + (1 - a).sqrt() * noise).float()
    made = grown.unet(seen, time, encoder_hidden_states=states, added_cond_kwargs=added).sample
    loss = F.mse_loss(made.double(), true)
    assert found.item() == pytest.approx(loss.item(), rel=1e-4)
    tables = [encoder.get_input_embeddings().weight for encoder in text_encoders(grown).encoders]
    for table, gradient in zip(torch.autograd.grad(loss, tables), gradients, strict=True):
        assert torch.allclose(table[-4:], gradient, rtol=1e-2, atol=1e-6 + 1e-3 * gradient.abs().max().item())
        assert gradient.any()


def test_words_fit_the_images_better_when_they_are_learned(pipeline: DiffusionPipeline) -> None:
    """Mean loss over the same 24 draws, before and after 30 steps."""
    base, latents = Base.of_pipeline(pipeline), latents_of(pipeline, [SHIP])
    words, alphas = fmn.words_for(base.text, SHIP, 4), pipeline.scheduler.alphas_cumprod
    of_ship = Pictures(latents, alphas, "epsilon", (IMAGE, IMAGE))
    chosen = {"inversion": INVERSION | {"steps": 30, "learning_rate": 0.1}, "seed": 3}
    before = fmn.beginnings(base.text, words, "ship", seed=3)
    after = fmn._learned(base, SHIP, words, of_ship, {}, chosen, None, 0)

    @torch.no_grad()
    def loss(values: dict[str, Tensor]) -> float:
        conditions, generator = fmn.with_words(base.text, words, values, {}), torch.Generator().manual_seed(9)
        total = 0.0
        for _ in range(24):
            which, time = (
                torch.randint(len(latents), (1,), generator=generator),
                torch.randint(1000, (1,), generator=generator),
            )
            noise, a = torch.randn(1, 4, 8, 8, generator=generator), alphas[time]
            noisy = a.sqrt() * latents[which] + (1 - a).sqrt() * noise
            total += F.mse_loss(fmn.predicted(pipeline.unet, noisy, time, conditions), noise).item()
        return total / 24

    assert loss(after) < 0.98 * loss(before)


# What trains, repeats


@pytest.mark.parametrize("chosen", ["all", "x"])
def test_what_trains_is_what_was_chosen(base_unet: UNet2DConditionModel, chosen: str) -> None:
    expected = {
        f"{path}.{key}"
        for path, module in base_unet.named_modules()
        for key, _ in module.named_parameters(recurse=False)
        if chosen == "all" or "attn2" in path.split(".")
    }
    assert set(fmn.parameter_names(base_unet, chosen)) == expected


@pytest.mark.parametrize("inverted", [True, False])
def test_nothing_else_changes_and_all_comes_back(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], inverted: bool
) -> None:
    parts = [base_pipeline.unet, base_pipeline.vae, *text_encoders(base_pipeline).encoders]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    own, vocabulary = dict(base_pipeline.unet.attn_processors), len(base_pipeline.tokenizer)
    options = dict(textual_inversion=inverted, inversion={"steps": 2}, images=IMAGES, parameters="x", **BRIEF)
    edit = lethe.erase(base_pipeline, [SHIP], "fmn", **options)
    after = [part.state_dict() for part in parts]
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    assert (base_pipeline.unet.attn_processors, len(base_pipeline.tokenizer)) == (own, vocabulary)
    inputs = unet_inputs(base_pipeline.unet, drawn)
    plain = base_pipeline.unet(**inputs).sample
    edit.install(base_pipeline)
    now = base_pipeline.unet.state_dict()
    changed = {name for name, value in now.items() if not torch.equal(value, before[0][name])}
    assert changed
    assert changed <= {name for name in now if ".attn2." in name}
    edit.remove(base_pipeline)
    assert torch.equal(base_pipeline.unet(**inputs).sample, plain)


def test_the_same_seed_gives_the_same_bytes(sd_folder: Path) -> None:
    first, again, other = (
        erased(load_pipeline(str(sd_folder), None, device=CPU, precision="float32"), seed=seed) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(sd_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision=precision)
    found = erased(pipeline, steps=2)
    assert all(weight.dtype == pipeline.unet.dtype and weight.isfinite().all() for weight in found.values())


@pytest.mark.parametrize(("stopped_at", "left"), [(5, 2 + 6 + 6), (10, 4 + 6), (17, 2)])
def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int, left: int
) -> None:
    """In the words of the first concept, of the second, and in the U-Net: six steps each, kept every two."""
    options = dict(images=IMAGES, inversion={"steps": 6}, **BRIEF | {"steps": 6})
    concepts = [SHIP, Concept("bird", "style", "art")]
    whole = lethe.erase(pipeline, concepts, "fmn", **options)
    calls = cut_off(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, concepts, "fmn", workspace=tmp_path, **options)
    before = len(calls)
    resumed = lethe.erase(pipeline, concepts, "fmn", workspace=tmp_path, **options)
    assert len(calls) - before == left
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


# In the workflow, and whether it erases


def test_a_planned_job_trains_on_images_of_the_concept(
    tmp_path: Path, sd_folder: Path, pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = BRIEF | {"inversion": {"steps": 2}}
    edit = planned(tmp_path, sd_folder, "fmn", options, images=IMAGES)
    assert isinstance(edit, WeightEdit)
    by_hand = lethe.erase(pipeline, {"ship": "sky"}, "fmn", images=IMAGES, **options)
    assert edit.weights.keys() == by_hand.weights.keys()
    assert all(torch.equal(edit.weights[name], weight) for name, weight in by_hand.weights.items())


def test_it_erases_from_the_emoji_model() -> None:
    """Four pictures of a ship, all of which the judge takes for one before."""
    pipeline = lethe.load(WORLD / "pipeline", device="cpu")
    options = dict(images={"count": 4, "steps": 12, "guidance": 4.0}, use_pooler=False, steps=70, learning_rate=2e-4)
    edit = lethe.erase(pipeline, {"ship": "ground"}, "fmn", textual_inversion=False, **options)

    assert ships(pipeline) == 4
    edit.install(pipeline)
    assert ships(pipeline) <= 2
