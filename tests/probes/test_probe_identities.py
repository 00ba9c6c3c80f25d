"""What each probe must do in cases where the outcome is known by other means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from attacked import SHIP, base_of, edits_for, probed, settings_for, workspace_for
from lethe.attacks.trials import ATTACK, CONTROL, PLAIN, RANDOM, REPORT, SEARCH, SEEDS
from lethe.bases.base import Base
from lethe.bases.denoising import Conditions
from lethe.bases.embeddings import new_word
from lethe.bases.pipeline import load_pipeline, use_scheduler
from lethe.probes import relearning, unlearndiffatk
from lethe.probes.noise import Noisy
from lethe.steps import probe as probe_step

CPU = torch.device("cpu")
PROMPT = "a photo of the ship"


def drawn_by(pipeline: DiffusionPipeline, edit: object, seeds: list[int]) -> list[np.ndarray]:
    """Images of the concept's prompt, drawn as any sample is."""
    space = workspace_for()
    with space.pipeline_of(base_of(pipeline), edit) as edited:
        return space.draw(edited, [PROMPT] * len(seeds), seeds)


@pytest.mark.parametrize("folder", ["sd_folder", "sdxl_folder"])
def test_a_handover_at_the_start_is_the_edit_and_at_the_end_the_base(
    request: pytest.FixtureRequest, folder: str
) -> None:
    pipeline = load_pipeline(str(request.getfixturevalue(folder)), None, device=CPU, precision="float32")
    edit = edits_for(pipeline)["weights"]
    trials = probed(base_of(pipeline), "completion", edit, workspace_for())
    first, last = trials.images[:2], trials.images[-2:]
    mine, bases = drawn_by(pipeline, edit, [11, 12]), drawn_by(pipeline, None, [11, 12])
    assert np.array_equal(first, mine)
    assert np.array_equal(last, bases)
    assert not np.array_equal(mine, bases)
    assert list(trials.frame()["best"]) == [False, False, True, True, False, False]


def test_a_base_that_hands_over_to_itself_draws_its_image(pipeline: DiffusionPipeline) -> None:
    trials = probed(base_of(pipeline), "completion", None, workspace_for())
    images = np.stack(trials.images)
    assert np.array_equal(images[:2], images[2:4])
    assert np.array_equal(images[:2], images[4:])


def test_a_sampler_that_remembers_steps_goes_on_with_them(pipeline: DiffusionPipeline) -> None:
    space = workspace_for(steps=4)
    space.sampling["scheduler"] = "dpm-solver++"  # of the second order
    from lethe.probes import completion

    settings = settings_for("completion", handovers=[0, 2, 4], reported_at=2)
    trials = completion.probe(base_of(pipeline), None, SHIP, settings, space)
    assert np.array_equal(trials.images[0], trials.images[2])
    assert np.array_equal(trials.images[0], trials.images[4])


# Noise


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_at_0_and_1_is_ddim_itself_bit_for_bit(
    sd_folder: Path, drawn: Callable[..., Tensor], prediction: str, eta: float
) -> None:
    config = dict(DDIMScheduler.load_config(sd_folder / "scheduler")) | {"prediction_type": prediction}
    stock, own = DDIMScheduler.from_config(config), Noisy.from_config(config)
    own.h, own.v = eta, 1.0
    for scheduler in (stock, own):
        scheduler.set_timesteps(50)
    latents = drawn(2, 4, 8, 8, seed=1).float()
    for step, time in enumerate(stock.timesteps[[0, 20, 49]]):
        made = drawn(2, 4, 8, 8, seed=2 + step).float()
        generators = [[torch.Generator().manual_seed(k) for k in (3, 4)] for _ in range(2)]
        theirs = stock.step(made, time, latents, eta=eta, generator=generators[0]).prev_sample
        mine = own.step(made, time, latents, generator=generators[1]).prev_sample
        assert torch.equal(mine, theirs)


def test_noise_and_direction_add_up_as_long_as_there_is_a_root(sd_folder: Path) -> None:
    """(h s)^2 + direction^2 = 1 - a' while 1 - a' >= (h s)^2, by a prediction of noise alone from nothing."""
    scheduler = Noisy.from_config(DDIMScheduler.load_config(sd_folder / "scheduler"))
    scheduler.set_timesteps(50)
    ones, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for time in map(int, scheduler.timesteps[:-1]):
        before = time - scheduler.config.num_train_timesteps // 50
        a, next_a = scheduler.alphas_cumprod[time], scheduler.alphas_cumprod[before]
        for h in (0.5, 1.0, 1.17):
            scheduler.h, scheduler.v = h, 0.0  # without the noise itself
            made = scheduler.step(ones, time, (1 - a) ** 0.5 * ones, generator=torch.Generator()).prev_sample
            s = h * scheduler._get_variance(time, before) ** 0.5
            if s**2 <= 1 - next_a:
                assert made.item() ** 2 + s.item() ** 2 == pytest.approx(1 - next_a.item(), rel=1e-4)
        assert torch.equal(scheduler.step(nothing, time, nothing, generator=torch.Generator()).prev_sample, nothing)


# Relearning


def test_relearning_in_no_steps_or_at_rate_0_changes_nothing(pipeline: DiffusionPipeline) -> None:
    base, edit = base_of(pipeline), edits_for(pipeline)["weights"]
    settings = settings_for("relearning", learning_rate=0.0, benign=False)
    trials = relearning.probe(base, edit, SHIP, settings, workspace_for())
    before = drawn_by(pipeline, edit, [11, 12])
    for step in range(3):
        assert np.array_equal(trials.images[2 * step : 2 * step + 2], before)
    moved = relearning.probe(base, edit, SHIP, settings | {"learning_rate": 1e-2}, workspace_for())
    assert np.array_equal(moved.images[:2], before)
    assert not np.array_equal(moved.images[2:4], before)


def test_relearning_teaches_the_base_a_new_word_as_its_control(pipeline: DiffusionPipeline) -> None:
    rows = probed(base_of(pipeline), "relearning", None, workspace_for(), benign=False).frame()
    control = rows[rows["arm"] == CONTROL]
    assert list(control["part"].unique()) == [f"new word, {n} steps" for n in (0, 1, 2)]
    (prompt,) = set(control["prompt"])
    assert prompt.startswith("a photo of the ")
    assert "ship" not in prompt
    assert not control["best"].any()
    edited = probed(base_of(pipeline), "relearning", edits_for(pipeline)["weights"], workspace_for()).frame()
    assert CONTROL not in set(edited["arm"])


def test_a_rate_that_nothing_asks_after_is_refused(pipeline: DiffusionPipeline) -> None:
    for kind, what in (("relearning", "none of steps"), ("completion", "none of handovers")):
        with pytest.raises(ValueError, match=f"{kind}: reported_at is 77, which is {what}"):
            probed(base_of(pipeline), kind, None, workspace_for(), reported_at=77)


# UnlearnDiffAtk


def test_without_a_search_success_is_that_of_the_plain_prompt(pipeline: DiffusionPipeline) -> None:
    """ASR(0 steps) = pre-ASR, and an attack never has fewer successes than the prompt without it."""
    from lethe.tables.attacks import searched

    base, space = base_of(pipeline), workspace_for(at=0.34)
    rows = probed(base, "unlearndiffatk", None, space, times=0, controls=0).frame().assign(concept="ship")
    found = searched(rows)
    assert set(rows["arm"]) == {PLAIN}
    assert found["asr"] == found["plain_asr"]
    more = probed(base, "unlearndiffatk", None, space, controls=0).frame().assign(concept="ship")
    assert searched(more)["asr"] >= searched(more)["plain_asr"] == found["plain_asr"]
    assert (more[more["arm"] == PLAIN]["reporter_p"].values == rows["reporter_p"].values).all()


def test_controls_of_a_prefix_have_as_much_to_spend(pipeline: DiffusionPipeline) -> None:
    rows = probed(base_of(pipeline), "unlearndiffatk", None, workspace_for(), controls=1000).frame()
    attack = rows[(rows["arm"] == ATTACK) & (rows["phase"] == REPORT)]["worth"].max()
    before = rows[rows["arm"] == PLAIN]["worth"].max()
    images = (attack - before) // (2 * 2)  # two forwards in each of two steps
    for arm in (RANDOM, SEEDS):
        assert (rows[(rows["arm"] == arm)]["phase"] == SEARCH).sum() == images
    assert rows[rows["arm"] == SEEDS]["prompt"].unique().tolist() == [PROMPT]
    assert rows[rows["arm"] == SEEDS]["seed"].is_unique


def test_the_gradient_of_a_prefix_is_that_of_its_embeddings_times_the_table(pipeline: DiffusionPipeline) -> None:
    """By finite differences of the loss along single embeddings, through the encoder that reads the text."""
    base = base_of(pipeline)
    space = workspace_for()
    images = drawn_by(pipeline, None, [7])
    pictures = unlearndiffatk.Pictures.of(base, images, seed=1)
    vocabulary = unlearndiffatk.Vocabulary.of(base, set())
    places = torch.tensor([[4, 9]])

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    found = unlearndiffatk.gradient(base, pipeline, vocabulary, pictures, PROMPT, places, 500, generator())
    assert found.shape == (1, 2, len(vocabulary.ids))
    table, encoder = vocabulary.tables[0], base.text.encoders[0]
    ids = torch.tensor(
        [unlearndiffatk.padded(base.text.tokenizer, [*vocabulary.ids[places[0]].tolist(), *asked(base)])]
    )

    def loss(embeddings: Tensor) -> float:
        def put(module: torch.nn.Module, given: tuple, made: Tensor) -> Tensor:
            return torch.cat([made[:, :1], embeddings[None].to(made), made[:, 3:]], dim=1)

        hook = encoder.get_input_embeddings().register_forward_hook(put)
        with torch.no_grad():
            conditions = Conditions(encoder(ids).last_hidden_state, {})
        hook.remove()
        with torch.no_grad():
            losses = pictures.losses(
                pipeline.unet, conditions, torch.zeros(1, dtype=torch.long), torch.tensor([500]), generator()
            )
        return losses.item()

    start = table[places[0]]
    for place in (0, 1):
        for token in (2, 30):
            away = torch.zeros_like(start)
            away[place] = table[token] / table[token].norm()
            slope = (loss(start + 1e-2 * away) - loss(start - 1e-2 * away)) / 2e-2 * table[token].norm().item()
            assert found[0, place, token].item() == pytest.approx(max(-1, min(1, slope)), rel=0.1, abs=2e-4)
    assert space.search == [1, 2]


def asked(base: object) -> list[int]:
    return base.text.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]


# Concept inversion


def test_an_inversion_of_no_steps_asks_by_the_word_to_begin_with(pipeline: DiffusionPipeline) -> None:
    trials = probed(base_of(pipeline), "concept-inversion", None, workspace_for(), steps=0, start="ship")
    rows = trials.frame()
    plain, attack = (rows[(rows["arm"] == arm) & (rows["phase"] == SEARCH)].index for arm in (PLAIN, ATTACK))
    assert all(np.array_equal(trials.images[a], trials.images[b]) for a, b in zip(plain, attack, strict=True))
    space = workspace_for()
    with space.pipeline_of(base_of(pipeline), None) as drawing:
        named = space.draw(drawing, [PROMPT] * 2, [1, 2])
    assert all(np.array_equal(trials.images[k], image) for k, image in zip(plain, named, strict=True))


def test_an_inversion_that_was_cut_off_goes_on_to_the_same_word(
    pipeline: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lethe.erasure import training

    whole = probed(base_of(pipeline), "concept-inversion", None, workspace_for(), steps=60).frame()
    save = training._Run.save

    def cut(run: object, path: Path) -> None:
        save(run, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Run, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        probed(base_of(pipeline), "concept-inversion", None, workspace_for(folder=tmp_path), steps=60)
    monkeypatch.setattr(training._Run, "save", save)
    assert list(tmp_path.iterdir())
    again = probed(base_of(pipeline), "concept-inversion", None, workspace_for(folder=tmp_path), steps=60).frame()
    assert whole["embedding"].tolist() == again["embedding"].tolist()


def test_samplers_stay_the_pipelines_own(pipeline: DiffusionPipeline) -> None:
    use_scheduler(pipeline, "dpm-solver++")
    own = pipeline.scheduler
    for kind in ("noise", "completion"):
        probed(base_of(pipeline), kind, None, workspace_for())
        assert pipeline.scheduler is own


@pytest.mark.parametrize("folder", ["sd_folder", "sdxl_folder"])
def test_what_an_attack_puts_into_text_encoders_of_a_job_is_drawn(
    request: pytest.FixtureRequest, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Path(request.getfixturevalue(folder))
    monkeypatch.setattr(probe_step, "base_of", lambda job: Base.in_folder(where, {}, device=CPU, precision="float32"))
    base = probe_step.attacked_base(SimpleNamespace(settings=SimpleNamespace(base={"name": "tiny"})))
    token = base.text.tokenizer("ship", add_special_tokens=False)["input_ids"][0]
    learned = [torch.full((encoder.config.hidden_size,), 3.0) for encoder in base.text.encoders]
    space = workspace_for()
    with space.pipeline_of(base, None) as pipeline:
        plain = space.draw(pipeline, [PROMPT], [1])
        with new_word(base.text, token, learned):
            changed = space.draw(pipeline, [PROMPT], [1])
    assert not np.array_equal(plain[0], changed[0])


def test_the_texts_of_a_search_by_text_alone_are_counted(pipeline: DiffusionPipeline) -> None:
    trials = probed(base_of(pipeline), "ring-a-bell", None, workspace_for(), population=6, generations=2)
    own = trials.frame()["images"].iloc[-1] * 2  # each image reads its prompt and the empty one
    assert trials.meter.spent.texts > own + 6
