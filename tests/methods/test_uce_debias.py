"""UCE for debiasing: rounds layer by layer and token by token, what is seen between them, and what stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

import lethe
from closed import KEPT, changed_by, exact, kept_tokens, last, planned, scale_of, state, uce_by_loop, weights_of
from conftest import CPU, WINDOW
from lethe.bases.base import Base
from lethe.config.schema import defaults_of
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.closed_form import SingularError
from lethe.inputs.concepts import Concept
from lethe.measures.clip import load_judge, text_embeddings
from lethe.methods import uce_debias
from lethe.plugins import manifest
from loops import apart
from trained import WORLD

MANIFEST = manifest("methods", "uce-debias")
WORDS = ["a bird", "the sky", "P!nk"]
CONCEPTS = [Concept("ship", "object", "x"), Concept("person here", "person", "x")]
BRIEF = dict(count=3, steps=2, guidance=2.0, batch=2)


def settings(clip: Path, **changes: Any) -> dict[str, Any]:
    """The defaults with changes, those of groups within them."""
    given = dict(attributes=WORDS, judge={"model": str(clip)}, drawing=BRIEF, tolerance=0.01)
    return defaults_of(MANIFEST.settings, given | changes) | {"seed": 5}


def see(monkeypatch: pytest.MonkeyPatch, shares: Sequence[Sequence[float]]) -> None:
    """Let no picture be drawn: concept by concept and round by round, these are the shares."""
    found = iter(shares)
    monkeypatch.setattr(uce_debias, "shares_seen", lambda *_: np.array(next(found)))


def moved(pipeline: DiffusionPipeline, chosen: Mapping[str, Any], concepts: Sequence[Concept] = CONCEPTS) -> WeightEdit:
    return uce_debias.erase(Base.of_pipeline(pipeline), concepts, chosen, {})


def by_name(edit: WeightEdit) -> dict[str, Tensor]:
    """The new projections by module name."""
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


# The formula


def spans(pipeline: DiffusionPipeline, name: str, convention: int) -> list[list[Tensor]]:
    """The tokens `[n, d]` of every prompt of a concept, then those of each attribute that they go to."""
    found = []
    before = ["", "image of ", "photo of ", "portrait of ", "picture of "] if convention == 2023 else [""]
    for words in before:
        texts = [words + name, *WORDS]
        at = [last(pipeline, text) for text in texts]
        count = WINDOW - max(at) if convention == 2023 else 1
        found.append([state(pipeline, text)[a : a + count] for text, a in zip(texts, at, strict=True)])
    return found


def towards(weight: Tensor, tokens: Sequence[Tensor], numbers: Iterable[float], convention: int) -> list[tuple]:
    """Every (c, g) of a prompt, W g being what W c becomes; `numbers` are alpha, or step (wanted - seen)."""
    c, *attributes = tokens
    g = c.clone()
    for a, number in zip(attributes, numbers, strict=True):
        length = 1.0
        if convention == 2023:
            length = float(((g @ weight.T) ** 2).sum().sqrt() / ((a @ weight.T) ** 2).sum().sqrt())
        g = g + float(number) * length * a
    return list(zip(c, g, strict=True))


def rounds_by_hand(
    pipeline: DiffusionPipeline, chosen: Mapping[str, Any], seen: Sequence[Sequence[Sequence[float]]], wanted: Tensor
) -> dict[str, Tensor]:
    """All rounds of `seen` `[rounds, concepts, attributes]`; a concept is done where each share is as wanted."""
    original, convention = weights_of(pipeline), chosen["convention"]
    tokens = [spans(pipeline, concept.name, convention) for concept in CONCEPTS]
    step = chosen["step"] if chosen["step"] is not None else {2023: 0.1, 2025: 1.0}[convention]
    scale = chosen["preserve_scale"] if chosen["preserve_scale"] is not None else {2023: 0.1, 2025: 1.0}[convention]
    current, sums = original, torch.zeros(len(CONCEPTS), len(WORDS), dtype=torch.float64)
    for shares in torch.tensor(seen, dtype=torch.float64):
        errors = wanted - shares
        sums = sums + step * errors
        done = [bool((error.abs() < chosen["tolerance"]).all()) for error in errors]
        kept = kept_tokens(pipeline, chosen)
        start, numbers, moving = original, sums, [True] * len(done)
        if convention == 2023:
            start, numbers, moving = current, step * errors, [not finished for finished in done]
            before = ["", "image of ", "photo of ", "portrait of ", "picture of "]
            names = [concept.name for concept, finished in zip(CONCEPTS, done, strict=True) if finished]
            kept = kept + [token for name in names for words in before for token in state(pipeline, words + name)]
        for name, weight in start.items():
            pairs = [
                pair
                for prompts, number, goes_on in zip(tokens, numbers, moving, strict=True)
                for prompt in (prompts if goes_on else ())
                for pair in towards(weight, prompt, number, convention)
            ]
            ruled = dict(ridge=chosen["ridge"], erase_scale=chosen["concept_scale"])
            current = current | {name: uce_by_loop(weight, pairs, kept, ruled, scale)}
    return current


SEEN = [[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]]
RIGHT = [0.25, 0.25, 0.5]


@pytest.mark.parametrize("convention", [2023, 2025])
@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(preserve=KEPT, step=0.4, preserve_scale=0.7, ridge=2.0, concept_scale=0.3),
    ],
    ids=["published", "other numbers"],
)
def test_rounds_are_the_formula_on_every_family(
    base_pipeline: DiffusionPipeline,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    convention: int,
    changes: dict[str, Any],
) -> None:
    pipeline = exact(base_pipeline)
    chosen = settings(clip_folder, convention=convention, shares=RIGHT, **changes)
    see(monkeypatch, [*SEEN[0], *SEEN[1], RIGHT, RIGHT])
    before, edit = weights_of(pipeline), moved(pipeline, chosen)
    want = rounds_by_hand(pipeline, chosen, SEEN, torch.tensor(RIGHT, dtype=torch.float64))
    assert list(by_name(edit)) == list(before)
    for name, weight in by_name(edit).items():
        assert apart(weight, want[name]) < 1e-8
        assert apart(weight, before[name]) > 1e-3
    assert [list(one) for one in edit.record["rounds"]] == [["ship", "person here"]] * 3
    assert edit.record["rounds"][1]["ship"] == dict(zip(WORDS, SEEN[1][0], strict=True))


@pytest.mark.parametrize("convention", [2023, 2025])
def test_a_concept_that_is_done_is_preserved_under_2023_alone(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, convention: int
) -> None:
    chosen = settings(clip_folder, convention=convention, shares=RIGHT)
    rounds = [SEEN[0], [RIGHT, SEEN[1][1]]]
    see(monkeypatch, [*rounds[0], *rounds[1], RIGHT, RIGHT])
    got = by_name(moved(exact(pipeline), chosen))
    want = rounds_by_hand(pipeline, chosen, rounds, torch.tensor(RIGHT, dtype=torch.float64))
    assert all(apart(weight, want[name]) < 1e-8 for name, weight in got.items())


def test_the_published_weight_is_not_that_of_erasing(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(clip_folder, convention=2023)
    assert scale_of(chosen, 0) == 1.0  # which uce takes when the empty prompt alone is preserved
    made = []
    for scale in (None, 0.1):
        see(monkeypatch, [[1.0, 0.0, 0.0], [1 / 3] * 3])
        made.append(by_name(moved(pipeline, chosen | {"preserve_scale": scale}, CONCEPTS[:1])))
    assert all(torch.equal(made[0][name], weight) for name, weight in made[1].items())


# When rounds end


@pytest.mark.parametrize("convention", [2023, 2025])
def test_nothing_changes_where_the_shares_are_right(
    base_pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, convention: int
) -> None:
    see(monkeypatch, [[0.3, 0.3, 0.4], [0.4, 0.3, 0.3]])
    edit = moved(base_pipeline, settings(clip_folder, convention=convention, tolerance=0.1))
    assert all(torch.equal(weight, weights_of(base_pipeline)[name]) for name, weight in by_name(edit).items())
    assert len(edit.record["rounds"]) == 1


@pytest.mark.parametrize(
    ("tolerance", "rounds", "changes", "warned"),
    [(0.05, 9, 2, False), (0.11, 9, 1, False), (0.05, 1, 1, True), (0.01, 2, 2, True)],
)
def test_rounds_end_within_the_tolerance_or_when_they_are_too_many(
    pipeline: DiffusionPipeline,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tolerance: float,
    rounds: int,
    changes: int,
    warned: bool,
) -> None:
    """0.75 beside 0.8 is not nearer than 0.05, however 0.8 - 0.75 rounds."""
    see(monkeypatch, [[0.5, 0.5], [0.75, 0.25], [0.78, 0.22]])
    told = dict(attributes=WORDS[:2], shares=[0.8, 0.2], tolerance=tolerance, rounds=rounds)
    edit = moved(pipeline, settings(clip_folder, **told), CONCEPTS[:1])
    assert len(edit.record["rounds"]) == changes + 1
    assert ("'ship' are not within the tolerance" in caplog.text) == warned


def test_errors_add_up_to_more_than_one_step(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2025: from the base, by the running sum, so that two rounds of half an error are one of the whole."""
    made = []
    for shares in ([[0.7, 0.3], [0.7, 0.3], [0.5, 0.5]], [[0.9, 0.1], [0.5, 0.5]]):
        see(monkeypatch, shares)
        told = dict(attributes=WORDS[:2], convention=2025)
        made.append(by_name(moved(exact(pipeline), settings(clip_folder, **told), CONCEPTS[:1])))
    assert all(apart(made[0][name], weight) < 1e-12 for name, weight in made[1].items())


# What is seen


def test_shares_are_of_pictures_of_the_edited_base(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each drawn alone by the pipeline, and judged by transformers alone."""
    chosen = settings(clip_folder, drawing=BRIEF | dict(count=6, batch=1, prompt="one {}"))
    edit = WeightEdit({f"{name}.weight": -2 * weight for name, weight in weights_of(pipeline).items()})
    judge = load_judge(str(clip_folder), device=CPU)
    named = text_embeddings(judge, [f"a photo of a {word}" for word in WORDS])
    base, untouched = Base.of_pipeline(pipeline), weights_of(pipeline)
    got = uce_debias.shares_seen(base, edit, "ship", judge, named, chosen)
    assert all(torch.equal(weight, untouched[name]) for name, weight in weights_of(pipeline).items())

    model = CLIPModel.from_pretrained(clip_folder)
    tokenizer, processor = CLIPTokenizer.from_pretrained(clip_folder), CLIPImageProcessor.from_pretrained(clip_folder)
    ids = tokenizer([f"a photo of a {word}" for word in WORDS], padding="max_length", return_tensors="pt").input_ids
    edit.install(pipeline)
    counts = [0] * len(WORDS)
    for seed in range(5, 11):
        drawn = pipeline(
            "one ship",
            num_inference_steps=2,
            guidance_scale=2.0,
            output_type="np",
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        pixels = processor(images=(drawn * 255).round().astype(np.uint8), return_tensors="pt").pixel_values
        with torch.no_grad():
            counts[int(model(input_ids=ids, pixel_values=pixels).logits_per_image.argmax())] += 1
    assert list(got * 6) == pytest.approx(counts)


def test_every_round_looks_at_the_weights_of_the_last_one(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[dict[str, Tensor]] = []
    draw = uce_debias.draw_images

    def noted(drawing: DiffusionPipeline, *given: Any, **more: Any) -> Any:
        looked.append(weights_of(drawing))
        return draw(drawing, *given, **more)

    monkeypatch.setattr(uce_debias, "draw_images", noted)
    before = weights_of(pipeline)
    edit = moved(pipeline, settings(clip_folder, rounds=2, shares=[0.01, 0.01, 0.98]), CONCEPTS[:1])
    assert len(looked) == 3
    for name, weight in by_name(edit).items():
        assert torch.equal(looked[0][name], before[name])
        assert torch.equal(looked[2][name], weight)
        assert not torch.equal(looked[1][name], looked[0][name])
        assert torch.equal(weights_of(pipeline)[name], before[name])


def test_the_emoji_model_draws_what_is_wanted_more_often() -> None:
    """On seeds that the rounds did not look at."""
    pipeline = lethe.load(WORLD / "pipeline", device="cpu")
    sampler = dict(scheduler="dpm-solver++", steps=12, guidance=4.0)
    words, judge = ["cactus", "tulip"], {"model": str(WORLD / "clip")}

    def cacti() -> int:
        drawn = lethe.sample(pipeline, ["a photo of the plant"] * 12, range(50, 62), **sampler)
        return lethe.recognised(drawn, words, **judge).count("cactus")

    drawing = dict(prompt="a photo of the {}", count=10, batch=10, **sampler)
    chosen = dict(attributes=words, shares=[0.9, 0.1], judge=judge, drawing=drawing, rounds=1)
    edit, before = lethe.erase(pipeline, {"plant": "ground"}, "uce-debias", **chosen), cacti()
    edit.install(pipeline)
    assert 2 <= before <= cacti() - 2


# What it leaves alone, repeats, and how it is planned


@pytest.mark.parametrize("convention", [2023, 2025])
def test_only_the_projections_of_text_change_and_the_same_seed_gives_the_same_bytes(
    base_pipeline: DiffusionPipeline, clip_folder: Path, convention: int
) -> None:
    chosen = settings(clip_folder, convention=convention, rounds=1, shares=[0.01, 0.01, 0.98])
    edit, again = moved(base_pipeline, chosen), moved(base_pipeline, chosen)
    assert changed_by(edit, base_pipeline) == weights_of(base_pipeline).keys()
    assert all(torch.equal(again.weights[name], weight) for name, weight in edit.weights.items())
    assert edit.record == again.record


ENTRY = dict(attributes=WORDS, shares=[0.01, 0.01, 0.98], drawing=BRIEF, rounds=1, tolerance=0.01)


def test_a_planned_job_makes_the_edit_and_keeps_the_shares(
    sd_folder: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    edit = planned(tmp_path, sd_folder, "uce-debias", ENTRY | {"judge": {"model": str(clip_folder)}}, seed=5)
    pipeline = lethe.load(sd_folder, device="cpu")
    want = moved(pipeline, settings(clip_folder, **ENTRY), CONCEPTS[:1])
    assert edit.weights.keys() == want.weights.keys()
    assert all(torch.equal(edit.weights[name], weight) for name, weight in want.weights.items())
    assert edit.record["rounds"] == want.record["rounds"]
    judge = edit.record["settings"]["method"]["judge"]
    assert len(judge["fingerprint"]) == 64
    assert "model" not in judge  # which may lie elsewhere and be the same


def test_another_judge_is_another_edit_and_another_place_of_it_is_not(
    sd_folder: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for folder in (here, there, other):
        shutil.copytree(clip_folder, folder)
    with (other / "config.json").open("a") as file:
        file.write("\n")
    found = []
    monkeypatch.setattr("closed.run", lambda job: found.append(job.digest))
    monkeypatch.setattr(Edit, "load", lambda path: None)
    for folder in (here, there, other):
        planned(tmp_path, sd_folder, "uce-debias", ENTRY | {"judge": {"model": str(folder)}})
    assert found[0] == found[1] != found[2]


# What is refused


@pytest.mark.parametrize(
    ("concepts", "changes", "said"),
    [
        ([], {}, "uce-debias: `concepts` must hold at least one concept; got none"),
        (CONCEPTS, dict(attributes=["sky"]), "attributes must be at least two, each named once; got sky"),
        (CONCEPTS, dict(attributes=["sky", "sky"]), "attributes must be at least two, each named once; got sky, sky"),
        (CONCEPTS, dict(shares=[0.5, 0.5]), "shares must be one for each of the 3 attributes and sum to 1; got"),
        (CONCEPTS, dict(shares=[0.5, 0.3, 0.3]), "shares must be one for each of the 3 attributes and sum to 1; got"),
        (CONCEPTS, dict(attributes=["sky", "bird " * 90]), "needs .* tokens; the text encoder reads 77"),
        ([Concept(" ", "object", "x")], {}, "' ' has no token to erase"),
    ],
)
def test_what_makes_no_sense_is_refused(
    pipeline: DiffusionPipeline, clip_folder: Path, concepts: list[Concept], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        moved(pipeline, settings(clip_folder, **changes), concepts)


def test_a_singular_system_names_its_settings(
    pipeline: DiffusionPipeline, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, [[1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"\(ridge or preserve_scale of the method\)") as caught:
        moved(pipeline, settings(clip_folder, ridge=0.0, convention=2025), CONCEPTS[:1])
    assert not isinstance(caught.value, SingularError)


def test_from_python_what_has_no_default_is_asked_for(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="uce-debias needs the setting 'attributes': What a picture"):
        lethe.erase(pipeline, {"ship": "sky"}, "uce-debias")
    with pytest.raises(ValueError, match="uce-debias needs the setting 'judge.model': A CLIP model"):
        lethe.erase(pipeline, {"ship": "sky"}, "uce-debias", attributes=WORDS, judge={"revision": None})
