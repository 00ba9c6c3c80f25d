"""AC: its losses from the pipeline's own predictions, its prompts, what trains, and that nothing else moves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

import lethe
from closed import planned
from conftest import CPU, IMAGE, unet_inputs
from guided import as_read
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline
from lethe.bases.unet import cross_attention_projections
from lethe.edits.weights import WeightEdit
from lethe.erasure import training
from lethe.inputs.concepts import Concept
from lethe.methods import ac
from lethe.plugins import manifest
from trained import WORLD, cut_off, ships

DEFAULTS = {name: rule["default"] for name, rule in manifest("methods", "ac").settings["properties"].items()}
DEFAULTS |= {"seed": 5}
BRIEF = dict(steps=3, batch=2, learning_rate=1e-3)
SHIP = Concept("ship", "object", "ground")
BIRD = Concept("bird", "style", "art")
IMAGES = {"count": 2, "steps": 2, "guidance": 2.0}


def reads(concepts: list[Concept]) -> dict[str, list]:
    """Two pictures of noise for each anchor, and their captions."""
    rng = np.random.default_rng(0)
    pictures = [list(rng.integers(0, 256, (2, IMAGE, IMAGE, 3), dtype=np.uint8)) for _ in concepts]
    captions = [[f"a photo of the {concept.anchor}", f"a picture of a {concept.anchor}"] for concept in concepts]
    return {"anchor_images": pictures, "anchor_captions": captions}


def erased(pipeline: DiffusionPipeline, concepts: list[Concept] | None = None, **changes: object) -> dict[str, Tensor]:
    chosen = [SHIP] if concepts is None else concepts
    return ac.erase(Base.of_pipeline(pipeline), chosen, DEFAULTS | BRIEF | changes, reads(chosen)).weights


# The loss

ASKED = {  # of each caption of `reads`, what a step may ask for, one of three
    "a photo of the ground": ["a photo of the ship"] * 3,
    "a picture of a ground": ["a picture of a ship"] * 3,
    "a photo of the art": [
        "a photo of the art, in the style of bird",
        "in bird's style, a photo of the art",
        "in bird's style, a photo of the art",
    ],
    "a picture of a art": [
        "a picture of a art, in the style of bird",
        "in bird's style, a picture of a art",
        "in bird's style, a picture of a art",
    ],
}


class Projection(nn.Module):
    """A projection of text whose weight learns from every token but the first."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__()
        self.weight = of.weight

    def forward(self, states: Tensor) -> Tensor:
        first, rest = states[:, 0:1], states[:, 1:]
        return torch.cat([first @ self.weight.detach().T, rest @ self.weight.T], dim=1)


def pictures_of(concepts: list[Concept]) -> list[Tensor]:
    """Two a concept, `[3, h, w]` in [-1, 1]."""
    pictures = np.concatenate(reads(concepts)["anchor_images"])
    return list(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)


def encoded(pipeline: DiffusionPipeline, pictures: list[Tensor], seed: int) -> Tensor:
    """The posterior of each, sampled."""
    with torch.no_grad():
        posteriors = [pipeline.vae.encode(one[None]).latent_dist for one in pictures]
    drawn = torch.randn(len(pictures), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    means, deviations = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mean", "std"))
    return (means + deviations * drawn) * pipeline.vae.config.scaling_factor


def counted(view: ac.View, form: str) -> Tensor:
    """Which latents' four by four pixels are all of the picture, and under `published-code` their neighbours' too."""
    found = torch.zeros(8, 8, dtype=torch.float64)
    for y in range(8):
        for x in range(8):
            reach = 0 if form == "paper" else 4
            rows, columns = (range(4 * at - reach, 4 * at + 4 + reach) for at in (y, x))
            found[y, x] = all(row in view.rows for row in rows) and all(column in view.columns for column in columns)
    return found


def looked_at(
    pipeline: DiffusionPipeline, concepts: list[Concept], chosen: dict, drawn: torch.Generator, *, whole: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[ac.View]]:
    """Which pictures, when, what the U-Net sees, what it should see in that, and the views that were taken."""
    pictures = pictures_of(concepts)
    which = torch.randint(len(pictures), (chosen["batch"],), generator=drawn)
    times = torch.randint(1000, (chosen["batch"],), generator=drawn)
    of = [concepts[k // 2] for k in which]
    views = [ac.View(pictures[k], range(IMAGE), range(IMAGE)) for k in which]
    if chosen["augmentation"] == "none":  # encoded beforehand, each concept's from the seed
        both = [encoded(pipeline, pictures[k : k + 2], seed=5) for k in range(0, len(pictures), 2)]
        clean = torch.cat(both)[which]
    else:
        for row, concept in enumerate(of):
            if not whole and (chosen["augmentation"] == "published" or concept.kind == "object"):
                views[row] = ac.view_of(pictures[which[row]], drawn)
        clean = encoded(pipeline, [view.pixels for view in views], int(torch.randint(2**63 - 1, (), generator=drawn)))
    noise = torch.randn(chosen["batch"], 4, 8, 8, generator=drawn)
    a = torch.cumprod(1 - pipeline.scheduler.betas.double(), 0)[times][:, None, None, None]
    true = noise.double()
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        true = a.sqrt() * noise - (1 - a).sqrt() * clean
    return which, times, (a.sqrt() * clean + (1 - a).sqrt() * noise).float(), true, views


def loss_by_hand(
    pipeline: DiffusionPipeline,
    student: UNet2DConditionModel,
    concepts: list[Concept],
    captions: list[str],
    chosen: dict,
    drawn: torch.Generator,
) -> Tensor:
    """Every picture by itself, in float64 from the U-Net's output on."""

    def predictions(seen: Tensor, times: Tensor, prompts: list[str]) -> Tensor:
        rows = []
        for x, t, prompt in zip(seen, times, prompts, strict=True):
            states, added = as_read(pipeline, prompt)
            rows.append(student(x[None], t, encoder_hidden_states=states, added_cond_kwargs=added).sample.double())
        return torch.cat(rows)

    which, times, seen, wanted, views = looked_at(pipeline, concepts, chosen, drawn)
    wording = torch.randint(3, (len(which),), generator=drawn)
    if chosen["variant"] == "model":
        with torch.no_grad():
            told = [view.begin + captions[k] for k, view in zip(which, views, strict=True)]
            wanted = predictions(seen, times, told)
    asked = [view.begin + ASKED[captions[k]][w] for k, w, view in zip(which, wording, views, strict=True)]
    errors = (predictions(seen, times, asked) - wanted) ** 2
    loss = 0
    for error, view in zip(errors, views, strict=True):
        inner = counted(view, chosen["form"])
        per_channel = 4 if chosen["form"] == "paper" else 1
        loss = loss + (inner * error).sum() / max(1, inner.sum()) / per_channel / len(views)
    if chosen["preservation_weight"]:
        which, times, seen, wanted, _ = looked_at(pipeline, concepts, chosen, drawn, whole=True)
        kept = predictions(seen, times, [captions[k] for k in which])
        loss = loss + chosen["preservation_weight"] * ((kept - wanted) ** 2).mean()
    return loss


@pytest.mark.parametrize(
    "changes",
    [
        dict(augmentation="none"),
        dict(augmentation="none", variant="noise", parameters="attn", train_start_token=True),
        dict(augmentation="none", form="published-code", preservation_weight=1.0, parameters="attn"),
        dict(augmentation="none", preservation_weight=0.2, variant="noise", form="published-code"),
        dict(augmentation="published", batch=4),
        dict(augmentation=None, preservation_weight=1.0, form="published-code", batch=4),
    ],
)
def test_every_step_follows_the_gradient_of_the_formula(
    base_pipeline: DiffusionPipeline, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain descent in place of AdamW, against a copy of the U-Net that is changed in place."""
    monkeypatch.setitem(training.OPTIMISERS, "adamw", torch.optim.SGD)
    chosen = DEFAULTS | BRIEF | {"learning_rate": 0.1, "weight_decay": 0.0} | changes
    concepts = [SHIP, BIRD]
    found = erased(base_pipeline, concepts, **chosen)
    student = copy.deepcopy(base_pipeline.unet).requires_grad_(True)
    trained = {name: student.get_parameter(name) for name in found}
    if not chosen["train_start_token"]:
        for name in cross_attention_projections(student):
            parent, _, leaf = name.rpartition(".")
            setattr(student.get_submodule(parent), leaf, Projection(student.get_submodule(name)))
    drawn = torch.Generator().manual_seed(5)
    captions = [caption for told in reads(concepts)["anchor_captions"] for caption in told]
    for _ in range(chosen["steps"]):
        loss = loss_by_hand(base_pipeline, student, concepts, captions, chosen, drawn)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        size = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt().item()
        with torch.no_grad():
            for parameter, gradient in zip(trained.values(), gradients, strict=True):
                parameter -= 0.1 * gradient * min(1, 1 / size)  # shortened to a length of 1
    for name, weight in found.items():
        before = base_pipeline.unet.get_parameter(name).detach()
        moved = trained[name].detach() - before
        assert torch.linalg.vector_norm(weight - before - moved) <= 2e-3 * torch.linalg.vector_norm(moved) + 1e-6, name
    assert any(not torch.equal(weight, base_pipeline.unet.get_parameter(name)) for name, weight in found.items())


def test_where_concept_and_anchor_are_one_only_weight_decay_acts(base_pipeline: DiffusionPipeline) -> None:
    """The loss and its gradient are exactly 0, so AdamW only shrinks."""
    same, before = [Concept("ground", "object", "ground")], dict(base_pipeline.unet.named_parameters())
    kept = erased(base_pipeline, same, weight_decay=0.0)
    assert kept.keys() >= {f"{name}.weight" for name in cross_attention_projections(base_pipeline.unet)}
    assert all(torch.equal(weight, before[name]) for name, weight in kept.items())
    shrunk = erased(base_pipeline, same, weight_decay=0.5)
    for name, weight in shrunk.items():
        assert torch.allclose(weight.double(), before[name].double() * (1 - 1e-3 * 0.5) ** 3, rtol=1e-6, atol=0)
    assert not all(torch.equal(weight, before[name]) for name, weight in shrunk.items())


@pytest.mark.parametrize("fixed", [True, False])
def test_no_weight_learns_from_the_start_token(
    base_unet: UNet2DConditionModel, drawn: Callable[..., Tensor], fixed: bool
) -> None:
    inputs = unet_inputs(base_unet, drawn)
    alone = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"][:, :1]}
    plain = base_unet(**inputs).sample
    weights = [module.weight for module in cross_attention_projections(base_unet).values()]
    with ac.start_token_fixed(base_unet, fixed):
        assert torch.equal(base_unet(**inputs).sample, plain)
        of_start, of_all = (
            torch.autograd.grad(base_unet(**given).sample.square().sum(), weights, allow_unused=True)
            for given in (alone, inputs)
        )
    learnt = [gradient is not None and bool(gradient.any()) for gradient in of_start]
    assert not any(learnt) if fixed else any(learnt)
    assert all(gradient.any() for gradient in of_all)
    assert not any(module._forward_hooks for module in base_unet.modules())


@pytest.mark.parametrize(
    ("kind", "prompts"),
    [
        ("object", {"a photo of the ship": 3}),
        ("person", {"a photo of the ship": 3}),
        ("style", {"a photo of the ground, in the style of ship": 1, "in ship's style, a photo of the ground": 2}),
        (
            "explicit",
            {
                "ship, a photo of the ground": 1,
                "in ship style, a photo of the ground": 1,
                "a photo of the ground, ship": 1,
            },
        ),
    ],
)
def test_prompts_ask_for_the_concept_as_its_kind_is_asked_for(kind: str, prompts: dict[str, int]) -> None:
    found = ac.prompts_for(Concept("ship", kind, "ground"), "a photo of the ground")
    assert {prompt: found.count(prompt) for prompt in found} == prompts


# Views of pictures


def picture(height: int, width: int) -> Tensor:
    """A ramp from 0.25 at the top to 0.75, the same in all columns and channels."""
    return torch.linspace(0.25, 0.75, height)[None, :, None].expand(3, height, width).contiguous()


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """As Pillow does it, one channel at a time."""
    channels = [
        Image.fromarray(channel.numpy()).resize((width, height), Image.Resampling.BILINEAR) for channel in pixels
    ]
    return torch.stack([torch.from_numpy(np.asarray(channel)) for channel in channels])


def test_views_are_shrunk_and_enlarged_as_published() -> None:
    """Of 512 pixels to 170 to 512, two times in three, else to 614 to 715; what a view shows says which."""
    pixels, generator, slope = picture(512, 16), torch.Generator().manual_seed(0), 0.5 / 511
    heights = []
    for _ in range(400):
        view = ac.view_of(pixels, generator)
        assert view.pixels.shape == (3, 512, 16)
        shown = view.pixels[0, view.rows.start : view.rows.stop, view.columns.start : view.columns.stop]
        assert view.pixels.abs().sum() == pytest.approx(3 * shown.abs().sum().item(), rel=1e-5)  # grey outside
        assert shown.min() > 0.2
        steps = shown[20:-20, 0].diff().mean().item()
        heights.append(round(512 * slope / steps))
        if heights[-1] < 560:
            assert abs(heights[-1] - len(view.rows)) <= 1  # one that leaves pixels out is a ramp but for rounding
            heights[-1] = len(view.rows)
            assert len(view.columns) == round(16 * heights[-1] / 512)
            assert view.begin in (("a far away ", "very small ") if heights[-1] < 0.6 * 512 else ("",))
        else:
            assert (view.rows, view.columns) == (range(512), range(16))
            assert view.begin in ("zoomed in ", "close up ")
    shrunk, enlarged = [h for h in heights if h <= 512], [h for h in heights if h > 512]
    assert 0.6 < len(shrunk) / 400 < 0.72
    assert 170 <= min(shrunk) < 185 < 490 < max(shrunk) <= 512
    assert 614 <= min(enlarged) < 620 < 708 < max(enlarged) <= 715


def test_a_view_is_the_resized_picture_anywhere_in_its_frame(drawn: Callable[..., Tensor]) -> None:
    pixels, generator = drawn(3, 40, 24).float(), torch.Generator().manual_seed(3)
    places, begun = set(), set()
    for _ in range(60):
        view = ac.view_of(pixels, generator)
        begun.add(view.begin)
        if len(view.rows) < 40:
            shown = view.pixels[:, view.rows.start : view.rows.stop, view.columns.start : view.columns.stop]
            assert torch.allclose(shown, resized(pixels, len(view.rows), len(view.columns)), atol=1e-4)
            places.add((view.rows.start, view.columns.start))
            continue
        found = [
            (height, top, left)
            for height in [40, *range(48, 56)]
            for whole in [resized(pixels, height, round(24 * height / 40))]
            for top in range(height - 39)
            for left in range(whole.shape[2] - 23)
            if torch.allclose(view.pixels, whole[:, top : top + 40, left : left + 24], atol=1e-4)
        ]
        assert len(found) == 1
        places.add(found[0][1:])
    assert begun == {"", "a far away ", "very small ", "zoomed in ", "close up "}
    assert len(places) > 30


@pytest.mark.parametrize(
    ("chosen", "changed"),
    [
        (None, {"object", "person"}),
        ("none", set()),
        ("published", {"object", "person", "style", "explicit"}),
    ],
)
def test_images_are_augmented_as_chosen_or_by_kind(chosen: str | None, changed: set[str]) -> None:
    kinds = ("object", "person", "style", "explicit")
    assert {kind for kind in kinds if ac.is_augmented(Concept("ship", kind, "ground"), chosen)} == changed


def test_a_picture_too_small_to_have_an_inside_counts_nothing() -> None:
    predictions, wanted = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    inside = torch.zeros(2, 8, 8)
    inside[1, 2:4, 3] = 1
    assert ac.squared_error(predictions, wanted, form="paper", inside=inside).item() == 0.5


# What trains


def expected(unet: UNet2DConditionModel, chosen: str) -> set[str]:
    """The parameters of every choice, module by module."""
    found = set()
    for path, module in unet.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            parts = path.split(".")
            strict = parts[-2:] in (["attn2", "to_k"], ["attn2", "to_v"])
            attention = parts[-2:-1] in (["attn1"], ["attn2"]) or parts[-3:-1] in (
                ["attn1", "to_out"],
                ["attn2", "to_out"],
            )
            if {"x-strict": strict, "attn": attention, "all": True}[chosen]:
                found.add(f"{path}.{key}")
    return found


@pytest.mark.parametrize("chosen", ["x-strict", "attn", "all"])
def test_what_trains_is_what_was_chosen(base_unet: UNet2DConditionModel, chosen: str) -> None:
    assert set(ac.parameter_names(base_unet, chosen)) == expected(base_unet, chosen)


def test_nothing_else_changes_and_all_comes_back(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor]
) -> None:
    parts = [base_pipeline.unet, base_pipeline.vae, base_pipeline.text_encoder]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    edit = lethe.erase(base_pipeline, [SHIP], "ac", images=IMAGES, **BRIEF)
    after = [part.state_dict() for part in parts]
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    inputs = unet_inputs(base_pipeline.unet, drawn)
    plain = base_pipeline.unet(**inputs).sample
    edit.install(base_pipeline)
    now = base_pipeline.unet.state_dict()
    changed = {name for name, value in now.items() if not torch.equal(value, before[0][name])}
    assert changed == {f"{name}.weight" for name in cross_attention_projections(base_pipeline.unet)}
    edit.remove(base_pipeline)
    assert torch.equal(base_pipeline.unet(**inputs).sample, plain)


# Repeats, and what is refused


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


def test_a_training_that_was_cut_off_goes_on(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(images=IMAGES, preservation_weight=1.0, **BRIEF | {"steps": 6})
    whole = lethe.erase(pipeline, [SHIP], "ac", **options)
    calls = cut_off(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        lethe.erase(pipeline, [SHIP], "ac", workspace=tmp_path, **options)
    before = len(calls)
    resumed = lethe.erase(pipeline, [SHIP], "ac", workspace=tmp_path, **options)
    assert len(calls) - before == 2
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


def test_what_makes_no_sense_is_refused(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="ac: `concepts` must hold at least one concept; got none"):
        erased(pipeline, [])
    told = "ac: the caption 'a photo of the Ground' does not hold 'ground', the anchor of 'ship', so that nothing would"
    given = reads([SHIP]) | {"anchor_captions": [["a photo of the ground", "a photo of the Ground"]]}
    with pytest.raises(ValueError, match=told):
        ac.erase(Base.of_pipeline(pipeline), [SHIP], DEFAULTS | BRIEF, given)


@pytest.mark.parametrize(("weight", "rate"), [(0.0, 1.6e-5), (0.2, 3.2e-5), (1.0, 3.2e-5)])
def test_a_learning_rate_left_out_is_the_published_one(
    pipeline: DiffusionPipeline, weight: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = []
    monkeypatch.setattr(ac, "train", lambda values, loss, budget, **_: budgets.append(budget))
    monkeypatch.setattr(ac, "start_token_fixed", lambda *_: nullcontext())
    erased(pipeline, preservation_weight=weight, learning_rate=None)
    assert budgets[0].learning_rate == pytest.approx(rate)
    assert (budgets[0].optimiser, budgets[0].weight_decay, budgets[0].max_grad_norm) == ("adamw", 0.01, 1.0)


# In the workflow, and whether it erases


PROMPTS = ["a wide {}", "{} on a street", "a bird in the {}"]


@pytest.mark.parametrize("prompts", [None, PROMPTS, "prompts.txt"])
def test_a_planned_job_trains_on_images_of_the_anchor(
    tmp_path: Path,
    sd_folder: Path,
    pipeline: DiffusionPipeline,
    monkeypatch: pytest.MonkeyPatch,
    prompts: list[str] | str | None,
) -> None:
    """The same edit as from Python, where the base draws images of the same anchor, of prompts in turn."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("# of skies\n" + "\n".join(PROMPTS))
    images, told = IMAGES | {"count": 4, "anchor_prompts": {"object": prompts}}, []
    prompts_for = ac.prompts_for
    monkeypatch.setattr(
        ac, "prompts_for", lambda concept, caption: (told.append(caption), prompts_for(concept, caption))[1]
    )
    edit = planned(tmp_path, sd_folder, "ac", BRIEF, images=images)
    assert isinstance(edit, WeightEdit)
    in_turn = ["a wide sky", "sky on a street", "a bird in the sky", "a wide sky"]
    assert told == (["a photo of the sky"] * 4 if prompts is None else in_turn)
    by_hand = lethe.erase(pipeline, {"ship": "sky"}, "ac", images=images, **BRIEF)
    assert edit.weights.keys() == by_hand.weights.keys()
    assert all(torch.equal(edit.weights[name], weight) for name, weight in by_hand.weights.items())


def test_it_erases_from_the_emoji_model() -> None:
    """Four pictures of a ship, all of which the judge takes for one before; images are augmented, as of all objects."""
    pipeline = lethe.load(WORLD / "pipeline", device="cpu")
    images = {"count": 4, "steps": 12, "guidance": 4.0}
    brief = dict(steps=100, batch=4, learning_rate=1e-3)
    edit = lethe.erase(pipeline, {"ship": "ground"}, "ac", images=images, **brief)
    assert ships(pipeline) == 4
    edit.install(pipeline)
    assert ships(pipeline) <= 1
