"""SPM: how adapters train and act, against the formulas by hand; what a prompt's share is; that nothing else moves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import lethe
from closed import planned, settings_of
from conftest import CPU, WIDTH, WINDOW, unet_inputs
from edited import record_for
from guided import PROMPT, as_read, away, drawn_by
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline, text_encoders, use_scheduler
from lethe.edits.edit import Edit
from lethe.edits.guidance import GuidanceEdit
from lethe.edits.low_rank import LowRank
from lethe.edits.weights import WeightEdit
from lethe.erasure import training
from lethe.inputs.concepts import Concept
from lethe.methods import spm
from trained import WORLD, cut_off, ships

DEFAULTS = settings_of("spm") | {"seed": 5}
BRIEF = dict(steps=2, learning_rate=1e-2, sampling_steps=2)
SHIP, BIRD = Concept("ship", "object", "ground"), Concept("bird", "style", "sky")


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] | None = None, **changes: object) -> Edit:
    base, chosen = Base.of_pipeline(pipeline), [SHIP] if concepts is None else concepts
    settings = DEFAULTS | BRIEF | changes
    adapters = [spm.train_adapter(base, concept, settings, {})[0] for concept in chosen]
    return spm.erase(base, chosen, settings, {"adapters": adapters})


def layers_of(unet: UNet2DConditionModel) -> dict[str, nn.Module]:
    """What SPM names: projections into and out of transformers, attention's four, both of the feed-forward net."""
    ends = ("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    return {name: module for name, module in unet.named_modules() if ".attentions." in name and name.endswith(ends)}


def random_adapters(unet: UNet2DConditionModel, count: int, drawn: Callable[..., Tensor]) -> dict[str, LowRank]:
    shapes = {name: layer.weight.shape for name, layer in layers_of(unet).items()}
    return {
        name: LowRank(0.3 * drawn(count, shape[1], seed=k), 0.3 * drawn(shape[0], count, seed=900 + k))
        for k, (name, shape) in enumerate(shapes.items())
    }


def edit_of(adapters: dict[str, LowRank], told: list[dict], transport: str = "eq9") -> GuidanceEdit:
    tensors = {f"{name}.{part}": getattr(pair, part) for name, pair in adapters.items() for part in ("down", "up")}
    return GuidanceEdit("spm", {"transport": transport, "adapters": told}, tensors=tensors)


# Training


def test_every_layer_of_a_transformer_has_an_adapter(base_unet: UNet2DConditionModel) -> None:
    assert spm.adapted_layers(base_unet) == layers_of(base_unet)
    kinds = {type(layer) for layer in layers_of(base_unet).values()}
    assert kinds <= {nn.Linear, nn.Conv2d}
    assert len(layers_of(base_unet)) > 30


def with_pairs(unet: UNet2DConditionModel, pairs: dict[str, tuple[Tensor, Tensor]]) -> Callable[..., object]:
    """The U-Net with W + up down in place of W."""
    weights = {name: value.detach() for name, value in unet.named_parameters()}
    for name, (down, up) in pairs.items():
        weight = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = weight + (up @ down).reshape(weight.shape)
    return lambda *args, **kwargs: torch.func.functional_call(unet, weights, args, kwargs).sample


def anchors_by_hand(
    pipeline: DiffusionPipeline, chosen: dict, drawn: torch.Generator
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Four anchors as a step draws them, and which of them count."""
    of_concept, added = as_read(pipeline, "ship")
    if chosen["anchors"]:
        read = [as_read(pipeline, text) for text in chosen["anchors"]]
        flat, concept = [states.double().flatten() for states, _ in read], of_concept.double().flatten()
        likeness = torch.tensor([(s @ concept / s.norm() / concept.norm()).item() for s in flat], dtype=torch.float64)
        places = torch.multinomial((1 - likeness.abs()) ** chosen["anchor_power"], 4, replacement=True, generator=drawn)
        four = [read[place] for place in places]
    else:
        four = []
        while len(four) < 4:
            direction = torch.randn(of_concept.shape, generator=drawn, dtype=torch.float64)
            length, chance = 0.8 + 0.4 * torch.rand((), generator=drawn), torch.rand((), generator=drawn)
            cosine = (direction * of_concept).sum() / direction.norm() / of_concept.double().norm()
            if chance < 1 - cosine:
                states = direction / direction.norm() * length * of_concept.double().norm()
                four.append((states.to(of_concept), added))
    empty = as_read(pipeline, "")
    return four if chosen["anchor_batch"] == "paper" else [empty, four[2], empty, four[3]]


def loss_by_hand(
    pipeline: DiffusionPipeline, pairs: dict[str, tuple[Tensor, Tensor]], chosen: dict, drawn: torch.Generator
) -> Tensor:
    membrane, plain = with_pairs(pipeline.unet, pairs), with_pairs(pipeline.unet, {})

    def made(unet: Callable, x: Tensor, t: Tensor, read: tuple[Tensor, dict]) -> Tensor:
        return unet(x, t, encoder_hidden_states=read[0], added_cond_kwargs=read[1]).double()

    done = 1 + int(torch.randint(chosen["sampling_steps"] - 1, (), generator=drawn))
    x = torch.randn(1, 4, 8, 8, generator=drawn).double()
    anchors = anchors_by_hand(pipeline, chosen, drawn)
    empty, asked = as_read(pipeline, ""), as_read(pipeline, "ship")
    neutral = as_read(pipeline, "ground" if chosen["surrogate"] is None else chosen["surrogate"])
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(chosen["sampling_steps"])
    with torch.no_grad():
        for time in scheduler.timesteps[:done]:
            free, full = made(membrane, x, time, empty), made(membrane, x, time, asked)
            x = scheduler.step((free + 3 * (full - free)), time, x).prev_sample
        t = scheduler.timesteps[done]
        start, leaving = made(plain, x, t, neutral), made(plain, x, t, asked)
        kept = [made(plain, x, t, read) for read in anchors]
    target = start - chosen["negative_guidance"] * (leaving - start)
    loss = (made(membrane, x, t, asked) - target).square().mean()
    errors = [(made(membrane, x, t, read) - wanted).square().mean() for read, wanted in zip(anchors, kept, strict=True)]
    return loss + chosen["anchor_weight"] * sum(errors) / 4


@pytest.mark.parametrize(
    "changes",
    [
        dict(anchors=["a bird", "the sky", "a photo of the ground"], anchor_power=2.0, surrogate=None),
        dict(anchor_batch="published-code", negative_guidance=3.0),
    ],
)
def test_every_step_follows_the_gradient_of_the_formula(
    base_pipeline: DiffusionPipeline, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain descent in place of AdamW, with its weight decay, at a rate that falls three times in four steps.

    In float64: random anchors are so unlike any prompt that float32 loses gradients of the tiny XL.
    """
    base_pipeline.to(torch.float64)
    monkeypatch.setitem(training.OPTIMISERS, "adamw", torch.optim.SGD)
    use_scheduler(base_pipeline, "ddim")
    chosen = (
        DEFAULTS | BRIEF | dict(steps=4, sampling_steps=3, learning_rate=0.005, warm_up=0, anchor_weight=10.0) | changes
    )
    chosen = {"negative_guidance": 1.0} | {key: value for key, value in chosen.items() if value is not None}
    chosen |= {"surrogate": changes.get("surrogate", "")}
    edit = erased(base_pipeline, **{**chosen, "facilitation": None})
    generator, pairs = torch.Generator().manual_seed(5), {}
    for name, layer in spm.adapted_layers(base_pipeline.unet).items():
        out, width = layer.weight.shape[:2]
        down = (2 * torch.rand(1, width, generator=generator) - 1) / width**0.5
        pairs[name] = (down.double().requires_grad_(True), torch.zeros(out, 1, dtype=torch.float64, requires_grad=True))
    drawn, first = torch.Generator().manual_seed(5), {name: down.detach().clone() for name, (down, _) in pairs.items()}
    for step in range(4):
        rate = 0.005 * (1 + math.cos(math.pi * (3 * step % 4) / 4)) / 2
        loss = loss_by_hand(base_pipeline, pairs, chosen, drawn)
        values = [value for pair in pairs.values() for value in pair]
        with torch.no_grad():
            for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
                value -= rate * (gradient + 0.01 * value)
    for name, (down, up) in pairs.items():
        for part, value, before in (("down", down, first[name]), ("up", up, torch.zeros_like(up))):
            moved, found = value.detach() - before, edit.tensors[f"{name}.{part}"] - before
            assert (found - moved).norm() <= 5e-3 * moved.norm() + 1e-5, f"{name}.{part}"
    assert all(up.detach().any() for _, up in pairs.values())


def first_loss(monkeypatch: pytest.MonkeyPatch, pipeline: DiffusionPipeline, **changes: object) -> float:
    losses = []

    def looked_at(values: dict, loss_of_step: Callable, *_: object, seed: int, **__: object) -> list[float]:
        losses.append(loss_of_step(torch.Generator().manual_seed(seed)).item())
        return losses

    monkeypatch.setattr(spm, "train", looked_at)
    erased(pipeline, **changes)
    return losses[0]


def test_the_first_loss_is_that_of_the_base_without_anchors(
    pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter begins as nothing: (1 + h)^2 m, whatever the anchors weigh."""
    losses = [
        first_loss(monkeypatch, pipeline, negative_guidance=h, anchor_weight=w) for h, w in ((0, 0), (1, 9), (3, 1e4))
    ]
    assert [loss / losses[0] for loss in losses] == pytest.approx([1, 4, 16], rel=1e-4)


def test_texts_are_drawn_the_more_often_the_less_they_are_like_the_concept(drawn: Callable[..., Tensor]) -> None:
    texts, concept = drawn(3, 4, 5, seed=1), drawn(1, 4, 5, seed=2)
    texts[1] = -2 * concept[0]
    flat, like = texts.double().flatten(1), concept.double().flatten()
    cosines = [(text @ like / text.norm() / like.norm()).item() for text in flat]
    shares = spm.anchor_shares(texts.split(2), concept, 2.0)
    assert shares.tolist() == pytest.approx([(1 - abs(c)) ** 2 for c in cosines], abs=1e-12)
    assert shares[1] == 0
    assert spm.anchor_shares([texts], concept, 0.0).tolist() == [1, 0, 1]


def test_random_states_are_about_as_long_as_the_concepts_and_unlike_it() -> None:
    concept = torch.randn(1, WINDOW, WIDTH, generator=torch.Generator().manual_seed(1))
    states = spm.random_states(concept, 50, torch.Generator().manual_seed(2))
    lengths = states.flatten(1).norm(dim=1) / concept.norm()
    assert states.shape == (50, WINDOW, WIDTH)
    assert 0.8 <= lengths.min() < 0.85 < 1.15 < lengths.max() <= 1.2
    assert torch.cosine_similarity(states.flatten(1), concept.flatten(1)).abs().max() < 0.1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("object", (3000, 1, 1000, 1)),
        ("person", (3000, 1, 1000, 1)),
        ("style", (3000, 1, 1000, 2)),
        ("explicit", (15000, 3, 100, 2)),
    ],
)
def test_settings_left_out_are_the_published_ones(kind: str, expected: tuple) -> None:
    def chosen(settings: dict) -> tuple:
        concept = Concept("x", kind, "y")
        return *spm.published(concept, settings).values(), spm.facilitation(concept, settings)

    assert chosen(DEFAULTS) == expected
    given = DEFAULTS | dict(steps=7, negative_guidance=0.0, anchor_weight=2.0, facilitation=0.5)
    assert chosen(given) == (7, 0.0, 2.0, 0.5)


# How adapters act


@pytest.mark.parametrize("transport", ["eq9", "published-code"])
def test_layers_add_what_the_formula_says(
    base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor], transport: str
) -> None:
    """Layer by layer, row by row, two adapters with other gates in each row; in float64."""
    base_unet.double()
    adapters = random_adapters(base_unet, 2, drawn)
    gates = torch.tensor([[0.3, 1.7], [0.0, 1.0]], dtype=torch.float64)
    for name, layer in layers_of(base_unet).items():
        width = layer.weight.shape[1]
        convolves = isinstance(layer, nn.Conv2d)
        x = drawn(2, width, 3, 2, seed=5).double() if convolves else drawn(2, 6, width, seed=5).double()
        plain = layer(x)
        with spm.adapted(base_unet, adapters, lambda rows: gates, transport=transport):
            found = layer(x)
        v, u = adapters[name].down.double(), adapters[name].up.double()
        for row in range(2):
            if transport == "eq9":
                change = sum(gates[row, k] * torch.outer(u[:, k], v[k]) for k in range(2))
            else:
                change = torch.outer(sum(gates[row, k] * u[:, k] for k in range(2)), gates[row] @ v)
            tokens = x[row].flatten(1).T if convolves else x[row]
            expected = plain[row].flatten(1).T if convolves else plain[row]
            expected = expected + torch.stack([change @ token for token in tokens])
            got = found[row].flatten(1).T if convolves else found[row]
            assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12), name
        assert torch.equal(layer(x), plain)


def test_one_adapter_acts_by_its_share_squared_under_the_published_code(
    unet: UNet2DConditionModel, drawn: Callable[..., Tensor]
) -> None:
    name, layer = next(iter(layers_of(unet.double()).items()))
    adapter, x = {name: random_adapters(unet, 1, drawn)[name]}, drawn(1, layer.weight.shape[1], 2, 2).double()

    def change(transport: str, gate: float) -> Tensor:
        with spm.adapted(unet, adapter, lambda rows: torch.tensor([[gate]]), transport=transport):
            found = layer(x)
        return found - layer(x)

    assert torch.allclose(change("published-code", 0.5), change("eq9", 0.25))
    assert not torch.allclose(change("published-code", 0.5), change("eq9", 0.5))


@pytest.mark.parametrize("transport", ["eq9", "published-code"])
def test_added_to_the_weights_they_act_as_beside_them(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], transport: str
) -> None:
    """Where each adapter's own prompt is the prompt, its share is 1."""
    base_pipeline.to(torch.float64)
    adapters = random_adapters(base_pipeline.unet, 2, drawn)
    plain = drawn_by(base_pipeline, steps=2)
    edit_of(adapters, [{"prompts": [PROMPT], "factor": 1.0}] * 2, transport).install(base_pipeline)
    gated = drawn_by(base_pipeline, steps=2)
    vars(base_pipeline)["_lethe_edit"][0].remove(base_pipeline)
    layers = layers_of(base_pipeline.unet)
    weights = {f"{n}.weight": spm.fused(layers[n].weight, pair, transport) for n, pair in adapters.items()}
    for name, pair in adapters.items():
        up, down = pair.up.double(), pair.down.double()
        change = up @ down if transport == "eq9" else torch.outer(up.sum(1), down.sum(0))
        before = layers[name].weight
        assert torch.allclose(weights[f"{name}.weight"], before + change.reshape(before.shape), atol=1e-12)
    WeightEdit(weights).install(base_pipeline)
    assert away(drawn_by(base_pipeline, steps=2), gated) < 1e-6
    assert away(plain, gated) > 1e-2


@pytest.mark.parametrize("nothing", ["up", "share"])
def test_adapters_that_are_nothing_or_shut_change_nothing(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], nothing: str
) -> None:
    plain, adapters = drawn_by(base_pipeline, steps=2), random_adapters(base_pipeline.unet, 1, drawn)
    if nothing == "up":
        adapters = {name: LowRank(pair.down, torch.zeros_like(pair.up)) for name, pair in adapters.items()}
    edit_of(adapters, [{"prompts": ["ship"], "factor": 1.0 if nothing == "up" else 0.0}]).install(base_pipeline)
    assert torch.equal(drawn_by(base_pipeline, steps=2), plain)


def test_a_prompts_share_is_the_larger_of_likeness_and_shared_words(base_pipeline: DiffusionPipeline) -> None:
    adapters = [
        {"prompts": ["ship"], "factor": 1.0},
        {"prompts": ["a bird of prey", "sky"], "factor": 2.0},
        {"prompts": ["qqq"], "factor": 1.0},
    ]
    prompts = ["a photo of the ship", "the sky", "a bird", ""]
    found = spm.prompt_shares(text_encoders(base_pipeline), prompts, adapters)

    def share(prompt: str, adapter: dict) -> float:
        scores = []
        for own in adapter["prompts"]:
            a, b = (as_read(base_pipeline, text)[0].double().flatten() for text in (prompt, own))
            ids = [set(base_pipeline.tokenizer(text)["input_ids"][1:-1]) for text in (prompt, own)]
            scores += [(a @ b / a.norm() / b.norm()).item(), len(ids[0] & ids[1]) / len(ids[1])]
        return max(scores) * adapter["factor"]

    expected = [[share(prompt, adapter) for adapter in adapters] for prompt in prompts]
    assert found.tolist() == [pytest.approx(row, rel=1e-5) for row in expected]
    assert found[0, 0] == 1  # "ship" stands in it
    assert found[1, 1] == pytest.approx(2)
    assert 0 < found[3, 2] < 1  # no word shared: likeness alone


def test_each_prompt_of_a_batch_has_its_own_share(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]
) -> None:
    """Two images of each of two prompts, against each prompt by itself."""
    edit_of(random_adapters(base_pipeline.unet, 1, drawn), [{"prompts": ["ship"], "factor": 1.0}]).install(
        base_pipeline
    )
    prompts, options = ["a photo of the ship", "a bird"], dict(num_inference_steps=2, output_type="latent")

    def noise(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = base_pipeline(prompts, num_images_per_prompt=2, generator=noise(1, 2, 3, 4), **options).images
    apart = [
        base_pipeline(prompt, generator=noise(seed), **options).images
        for prompt, seed in zip([prompts[0]] * 2 + [prompts[1]] * 2, (1, 2, 3, 4), strict=True)
    ]
    assert away(together, torch.cat(apart)) < 1e-4
    unguided = base_pipeline(prompts[0], generator=noise(1), guidance_scale=1.0, **options).images
    assert unguided.isfinite().all()


# Installed, removed, saved


def test_nothing_else_changes_and_all_comes_back(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]
) -> None:
    parts = [base_pipeline.unet, base_pipeline.vae, *text_encoders(base_pipeline).encoders]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    plain, inputs, names = (
        drawn_by(base_pipeline, steps=2),
        unet_inputs(base_pipeline.unet, drawn),
        set(vars(base_pipeline)),
    )
    alone = base_pipeline.unet(**inputs).sample
    edit = lethe.erase(base_pipeline, [SHIP], "spm", **BRIEF | {"learning_rate": 0.1})
    assert torch.equal(drawn_by(base_pipeline, steps=2), plain)
    for _ in range(2):
        edit.install(base_pipeline)
        assert away(drawn_by(base_pipeline, steps=2), plain) > 1e-3
        assert torch.equal(base_pipeline.unet(**inputs).sample, alone)  # outside of a drawing
        edit.remove(base_pipeline)
        assert torch.equal(drawn_by(base_pipeline, steps=2), plain)
        assert set(vars(base_pipeline)) == names
    after = [part.state_dict() for part in parts]
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())
    assert not any(module._forward_hooks for module in base_pipeline.unet.modules())


def test_weights_are_the_base_with_all_adapters_added(pipeline: DiffusionPipeline) -> None:
    """A concept's adapter is the same in whatever company."""
    both, alone = erased(pipeline, [SHIP, BIRD]), erased(pipeline, [BIRD])
    fused = erased(pipeline, [SHIP, BIRD], edit_form="weights").weights
    assert [one["prompts"] for one in both.settings["adapters"]] == [["ship"], ["bird"]]
    assert [one["factor"] for one in both.settings["adapters"]] == [1.0, 2.0]
    assert fused.keys() == {f"{name}.weight" for name in layers_of(pipeline.unet)}
    for name, layer in layers_of(pipeline.unet).items():
        down, up = both.tensors[f"{name}.down"], both.tensors[f"{name}.up"]
        assert torch.equal(down[1:], alone.tensors[f"{name}.down"])
        assert torch.equal(up[:, 1:], alone.tensors[f"{name}.up"])
        change = sum(torch.outer(up[:, k].double(), down[k].double()) for k in range(2))
        expected = layer.weight.detach().double() + change.reshape(layer.weight.shape)
        assert torch.allclose(fused[f"{name}.weight"].double(), expected, rtol=0, atol=1e-7)


def test_an_edit_comes_back_from_its_file(tmp_path: Path, sd_folder: Path, pipeline: DiffusionPipeline) -> None:
    edit = erased(pipeline, learning_rate=0.1)
    edit.record.update(record_for(sd_folder))
    for name in ("a", "b"):
        edit.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    edit.install(pipeline)
    want = drawn_by(pipeline, steps=2)
    edit.remove(pipeline)
    for length in range(0, 16, 2):  # of the header, so that tensors begin at other addresses, by which products round
        edit.record["more"] = "x" * length
        edit.save(tmp_path / "moved")
        back = Edit.load(tmp_path / "moved")
        back.install(pipeline)
        assert torch.equal(drawn_by(pipeline, steps=2), want), length
        back.remove(pipeline)
    with safe_open(tmp_path / "a", "pt") as file:
        save_file({}, tmp_path / "empty", {"lethe": file.metadata()["lethe"]})
        assert json.loads(file.metadata()["lethe"])["edit"]["guidance"]["transport"] == "eq9"
    with pytest.raises(ValueError, match="empty: an edit by guidance must hold settings in its header, and tensors"):
        Edit.load(tmp_path / "empty")


OWN = [{"prompts": ["ship"], "factor": 1.0}]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapters": OWN}, "spm: `transport` in the edit must be one of eq9, published-code; got None"),
        (
            {"transport": "eq9"},
            "spm: `adapters` in the edit must be a list of prompts and a factor, 0 or more, of each",
        ),
        ({"transport": "eq9", "adapters": []}, "spm: `adapters` in the edit must be"),
        ({"transport": "eq9", "adapters": [{"prompts": ["ship"]}]}, "spm: `adapters` in the edit must be"),
        ({"transport": "eq9", "adapters": [{"prompts": "ship", "factor": 1}]}, "spm: `adapters` in the edit must be"),
        ({"transport": "eq9", "adapters": [{"prompts": ["a"], "factor": -1}]}, "spm: `adapters` in the edit must be"),
        ({"transport": "eq9", "adapters": [{"prompts": ["a"], "factor": math.nan}]}, "spm: `adapters` in the edit"),
        (
            {"transport": "eq9", "adapters": OWN * 2},
            r"spm: the edit does not fit: the adapters of .* must be \[2, 16\]",
        ),
    ],
)
def test_an_edit_that_no_training_made_is_refused(
    pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], settings: dict, said: str
) -> None:
    names, made = set(vars(pipeline)), edit_of(random_adapters(pipeline.unet, 1, drawn), OWN)
    with pytest.raises(ValueError, match=said):
        GuidanceEdit("spm", settings, tensors=made.tensors).install(pipeline)
    missing = dict(list(made.tensors.items())[1:])
    with pytest.raises(
        ValueError, match="spm: the edit does not fit: its adapters are not of the layers that the base"
    ):
        GuidanceEdit("spm", made.settings, tensors=missing).install(pipeline)
    assert set(vars(pipeline)) == names


def test_a_drawing_from_embeddings_is_refused(pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]) -> None:
    states, _ = as_read(pipeline, "a photo of the ship")
    edit_of(random_adapters(pipeline.unet, 1, drawn), OWN).install(pipeline)
    with pytest.raises(
        ValueError, match="spm: the edit acts by what a prompt is about, and this drawing has embeddings"
    ):
        pipeline(prompt_embeds=states, negative_prompt_embeds=states, num_inference_steps=1, output_type="latent")


# Repeats, and what is refused


def test_the_same_seed_gives_the_same_bytes(sd_folder: Path) -> None:
    first, again, other = (
        erased(load_pipeline(str(sd_folder), None, device=CPU, precision="float32"), seed=seed).tensors
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(sd_folder: Path, precision: str) -> None:
    pipeline = load_pipeline(str(sd_folder), None, device=CPU, precision=precision)
    found = erased(pipeline, warm_up=0).tensors
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in found.values())
    assert all(tensor.any() for name, tensor in found.items())


@pytest.mark.parametrize(("stopped_at", "left"), [(5, 2 + 6), (10, 4)])
def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int, left: int
) -> None:
    """In the first of two adapters, and in the second: six steps each, kept every two."""
    options = BRIEF | {"steps": 6}
    whole = lethe.erase(pipeline, [SHIP, BIRD], "spm", **options)
    calls = cut_off(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, [SHIP, BIRD], "spm", workspace=tmp_path, **options)
    before = len(calls)
    resumed = lethe.erase(pipeline, [SHIP, BIRD], "spm", workspace=tmp_path, **options)
    assert len(calls) - before == left
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


@pytest.mark.parametrize(
    ("concepts", "changes", "said"),
    [
        ([], {}, "spm: `concepts` must hold at least one concept; got none"),
        ([SHIP], dict(sampling_steps=1), "spm: sampling_steps must be 2 or more"),
        ([SHIP], dict(anchors=["ship", "ship"]), "spm: every one of anchors is 'ship' itself"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipeline: DiffusionPipeline, concepts: list[Concept], changes: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        erased(pipeline, concepts, **changes)


def test_adapters_of_other_layers_are_refused(pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]) -> None:
    made = edit_of(random_adapters(pipeline.unet, 1, drawn), OWN).tensors
    whole = [{name: tensor.float() for name, tensor in made.items()}]
    assert spm.erase(Base.of_pipeline(pipeline), [SHIP], DEFAULTS, {"adapters": whole}).tensors.keys() == made.keys()
    part = [dict(list(whole[0].items())[1:])]
    with pytest.raises(ValueError, match="spm: the adapter of 'ship' does not fit: it is not of the base's layers"):
        spm.erase(Base.of_pipeline(pipeline), [SHIP], DEFAULTS, {"adapters": part})


# In the workflow, and whether it erases


def test_a_planned_job_makes_the_edit_that_python_makes(
    tmp_path: Path, sd_folder: Path, pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anchors from a prior, but for the text that names the concept."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a bird\na ship at sea\nthe sky\n")
    priors = {"texts": {"file": "texts.txt"}}
    edit = planned(tmp_path, sd_folder, "spm", BRIEF | {"anchors": {"prior": "texts"}}, priors=priors)
    assert isinstance(edit, GuidanceEdit)
    by_hand = lethe.erase(pipeline, {"ship": "sky"}, "spm", anchors=["a bird", "the sky"], **BRIEF)
    assert edit.settings == by_hand.settings
    assert all(torch.equal(edit.tensors[name], tensor) for name, tensor in by_hand.tensors.items())


def test_it_erases_from_the_emoji_model() -> None:
    """Four pictures of a ship, all of which the judge takes for one before."""
    pipeline = lethe.load(WORLD / "pipeline", device="cpu")
    options = dict(steps=50, sampling_steps=4, learning_rate=1e-2, anchor_weight=10.0)
    edit = lethe.erase(pipeline, {"ship": "ground"}, "spm", **options)

    assert ships(pipeline) == 4
    edit.install(pipeline)
    assert ships(pipeline) <= 1
