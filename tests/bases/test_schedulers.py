"""Schedulers: every one of diffusers as a base's own, under every choice."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
)

from conftest import CPU, ROOT
from lethe.bases.pipeline import load_pipeline, use_scheduler
from lethe.bases.sampling import sample_rows
from lethe.bases.schedulers import (
    DISTILLED,
    EDM,
    OWN,
    SCHEDULERS,
    VARIANCE_PRESERVING,
    build_scheduler,
    scheduler_problem,
    training_problem,
    training_schedule,
)

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
ALL = sorted(
    name
    for name, kind in vars(diffusers.schedulers).items()
    if name.endswith("Scheduler") and isinstance(kind, type) and hasattr(diffusers, name)
) + ["CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"]
LACKING = ("DPMSolverSDEScheduler",)  # of a package (torchsde) that this environment does not have
DRAWN = [name for name in VARIANCE_PRESERVING if name not in LACKING]


def alphas() -> np.ndarray:
    """Cumulative products of 1 - betas of Stable Diffusion: betas are squares of 1000 numbers spread evenly."""
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def config_of(name: str, **values: object) -> dict:
    """What a base's scheduler_config.json holds for a class on Stable Diffusion's noise, and no more."""
    takes = inspect.signature(getattr(diffusers, name).__init__).parameters
    if "args" in takes:  # a stand-in for a class whose package is not there
        takes = {**NOISE, "prediction_type": None}
    return {"_class_name": name} | {key: value for key, value in (NOISE | values).items() if key in takes}


def steps_of_ddim(noise: torch.Tensor, predicted: list[float], steps: int) -> np.ndarray:
    """DDIM (arXiv 2010.02502, Eq. 12, eta 0) on Stable Diffusion's noise, at steps 1000 // n apart that begin at 1."""
    a, x = alphas(), noise.double().numpy()
    times = [k * (1000 // steps) + 1 for k in reversed(range(steps))]
    for time, e in zip(times, predicted, strict=True):
        before = time - 1000 // steps
        end = a[before] if before >= 0 else a[0]
        x0 = (x - (1 - a[time]) ** 0.5 * e) / a[time] ** 0.5
        x = end**0.5 * x0 + (1 - end) ** 0.5 * e
    return x


@pytest.mark.parametrize("name", DRAWN)
def test_ddim_of_any_own_scheduler_is_that_of_stable_diffusion(name: str) -> None:
    """Latents far beyond 1 come through: nothing is clipped, and the last step ends at the first noise level."""
    spaced = {"timestep_spacing": "leading", "steps_offset": 1}
    scheduler = build_scheduler(config_of(name, **spaced), "ddim")
    assert type(scheduler) is DDIMScheduler
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]
    x = noise = 5 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    predicted = [0.9, -0.4, 0.3, 0.1, -0.2]
    for time, e in zip(scheduler.timesteps, predicted, strict=True):
        x = scheduler.step(torch.full_like(x, e), time, x).prev_sample
    want = steps_of_ddim(noise, predicted, 5)
    assert np.abs(want).max() > 10
    assert np.allclose(x, want, rtol=1e-4)  # single precision, 0.068 = the smallest root of a


@pytest.mark.parametrize("name", DRAWN)
def test_dpm_solver_of_any_own_scheduler_is_that_of_its_name(name: str) -> None:
    scheduler = build_scheduler(config_of(name, prediction_type="v_prediction"), "dpm-solver++")
    assert type(scheduler) is DPMSolverMultistepScheduler
    config = scheduler.config
    assert (config.algorithm_type, config.solver_type, config.thresholding) == ("dpmsolver++", "midpoint", False)
    assert np.allclose(scheduler.alphas_cumprod, alphas(), rtol=1e-4)
    takes = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert config.prediction_type == ("v_prediction" if "prediction_type" in takes else "epsilon")


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("choice", SCHEDULERS)
def test_any_own_scheduler_gives_the_images_of_stable_diffusions(
    sd_folder: Path, tmp_path: Path, some_rows: pd.DataFrame, name: str, choice: str
) -> None:
    """Whatever wrote a base's scheduler_config.json, one choice draws the same images: the noise is the same."""
    folder = shutil.copytree(sd_folder, tmp_path / "base")
    said = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
    own = getattr(diffusers, name)(**{k: v for k, v in config_of(name, **said).items() if k[0] != "_"})
    own.save_pretrained(folder / "scheduler")  # with all that the class defaults to
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", name]}))

    def images(base: Path) -> list[np.ndarray]:
        pipeline = load_pipeline(str(base), None, device=CPU, precision="float32", scheduler=choice)
        said = pipeline.scheduler.config
        assert (said.timestep_spacing, said.steps_offset) == ("leading", 1)
        return sample_rows(pipeline, some_rows.iloc[:2], steps=3, guidance=4.0, batch=2)

    takes = inspect.signature(getattr(diffusers, name).__init__).parameters
    if "timestep_spacing" in takes or choice == "ddim":
        if "solver_order" in takes and choice == "dpm-solver++":
            assert own.config.solver_order == 2
        assert np.array_equal(images(folder), images(sd_folder))
    else:  # the sampler's own spacing
        pipeline = load_pipeline(str(folder), None, device=CPU, precision="float32", scheduler=choice)
        assert pipeline.scheduler.config.timestep_spacing == "linspace"


def told(name: str, choice: str) -> bool:
    return scheduler_problem(config_of(name), choice) is None


@pytest.mark.parametrize("name", ALL)
def test_every_scheduler_is_drawn_with_or_refused_by_its_name(name: str) -> None:
    """The three lists hold all that diffusers has on a diffusion's betas, or are left out for a reason given here."""
    drawn = name in VARIANCE_PRESERVING
    assert [told(name, choice) for choice in SCHEDULERS] == [drawn, drawn]
    assert told(name, OWN) == (drawn or name in (*DISTILLED, *EDM))
    for choice in (*SCHEDULERS, OWN):
        if problem := scheduler_problem(config_of(name), choice):
            assert name in problem
            with pytest.raises(ValueError, match=name):
                build_scheduler(config_of(name), choice)
    assert (training_problem(config_of(name)) is None) == (drawn or name in DISTILLED)
    if name not in LACKING and not drawn and name not in DISTILLED:
        takes = inspect.signature(getattr(diffusers, name).__init__).parameters
        other = {
            "CogVideoXDDIMScheduler",  # of videos, whose noise is shifted
            "CogVideoXDPMScheduler",
            "DDIMInverseScheduler",  # from images to noise
            "DPMSolverMultistepInverseScheduler",
            "RePaintScheduler",  # paints into images
            "UnCLIPScheduler",  # of embeddings of images
        }
        assert name in other or "beta_schedule" not in takes


@pytest.mark.parametrize("name", [name for name in (*VARIANCE_PRESERVING, *DISTILLED) if name not in LACKING])
def test_training_takes_the_noise_of_the_scheduler_and_what_is_predicted(name: str) -> None:
    scheduler = getattr(diffusers, name).from_config(config_of(name, prediction_type="v_prediction"))
    found, predicted = training_schedule(scheduler)
    assert np.allclose(found, alphas(), rtol=1e-4)
    takes = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert predicted == ("v_prediction" if "prediction_type" in takes else "epsilon")


@pytest.mark.parametrize("name", [*EDM, "FlowMatchEulerDiscreteScheduler", "CMStochasticIterativeScheduler"])
def test_training_without_betas_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the base is sampled with {name}, whose noise has no betas"):
        training_schedule(getattr(diffusers, name)())


@pytest.mark.parametrize("name", [name for name in (*VARIANCE_PRESERVING, *DISTILLED, *EDM) if name not in LACKING])
def test_own_is_the_scheduler_as_the_library_loads_it(sd_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "base")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config_of(name)))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", name]}))
    mine = load_pipeline(str(folder), None, device=CPU, precision="float32", scheduler=OWN).scheduler
    its = StableDiffusionPipeline.from_pretrained(folder).scheduler
    assert type(mine) is type(its)
    assert dict(mine.config) == dict(its.config)


def test_a_distilled_base_is_sampled_by_its_own(sd_folder: Path, tmp_path: Path, some_rows: pd.DataFrame) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "base")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config_of("LCMScheduler")))
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", "LCMScheduler"]}))
    for choice in SCHEDULERS:
        words = f"base: the base is sampled with LCMScheduler, so it is distilled .* {choice.replace('+', '.')} .*own"
        with pytest.raises(ValueError, match=words):
            load_pipeline(str(folder), None, device=CPU, precision="float32", scheduler=choice)
    pipeline = load_pipeline(str(folder), None, device=CPU, precision="float32", scheduler=OWN)
    images = sample_rows(pipeline, some_rows.iloc[:2], steps=4, guidance=1.0, batch=2)
    assert np.array_equal(images, sample_rows(pipeline, some_rows.iloc[:2], steps=4, guidance=1.0, batch=2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"use_flow_sigmas": True}, "flow matching"),
        ({"rescale_betas_zero_snr": True}, "divides by 0"),
        ({"variance_type": "learned_range"}, "variance_type 'learned_range'"),
        ({"beta_schedule": "sigmoid"}, "DDPMScheduler cannot be sampled as"),
        ({"_class_name": None}, "sampled with None"),
        ({"_class_name": ["code", "DDIMScheduler"]}, "sampled with"),
    ],
)
@pytest.mark.parametrize("choice", SCHEDULERS)
def test_noise_of_another_kind_is_refused(values: dict, words: str, choice: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        build_scheduler(config_of("DDPMScheduler") | values, choice)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("choice", SCHEDULERS)
def test_noise_that_ends_in_nothing_is_kept_where_velocity_is_predicted(choice: str) -> None:
    own = config_of("EulerDiscreteScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler = build_scheduler(own, choice)
    assert scheduler.config.rescale_betas_zero_snr
    assert 0 <= scheduler.alphas_cumprod[-1] < 1e-6
    its = EulerDiscreteScheduler.from_config(own).alphas_cumprod
    assert torch.allclose(scheduler.alphas_cumprod, its, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_type": "logrho"}),
        ("SASolverScheduler", {"algorithm_type": "data_prediction"}),
        ("UniPCMultistepScheduler", {"solver_type": "bh2"}),
    ],
)
def test_another_solvers_algorithm_is_not_taken_along(name: str, values: dict) -> None:
    scheduler = build_scheduler(config_of(name) | values, "dpm-solver++")
    assert (scheduler.config.algorithm_type, scheduler.config.solver_type) == ("dpmsolver++", "midpoint")


def test_what_a_base_says_of_itself_stays() -> None:
    said = {"clip_sample": True, "set_alpha_to_one": True, "steps_offset": 0, "use_karras_sigmas": True}
    for choice, keys in {"ddim": ("clip_sample", "set_alpha_to_one"), "dpm-solver++": ("use_karras_sigmas",)}.items():
        scheduler = build_scheduler({"_class_name": "DDIMScheduler"} | NOISE | said, choice)
        assert scheduler.config.steps_offset == 0
        assert all(scheduler.config[key] is True for key in keys)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("choice", SCHEDULERS)
def test_noise_that_a_configuration_leaves_to_its_class_is_that_of_the_class(name: str, choice: str) -> None:
    """Heun's and KDPM2's betas are not those that DDIM and DPM-Solver++ take by themselves."""
    own = getattr(diffusers, name)()
    found = build_scheduler({"_class_name": name}, choice)
    assert torch.equal(found.alphas_cumprod, own.alphas_cumprod)
    assert torch.equal(build_scheduler({**own.config, "_class_name": name}, choice).betas, own.betas)


EMOJI = ROOT / "resources/emoji/pipeline"


@pytest.mark.parametrize(
    ("choice", "kind", "first"),
    [("dpm-solver++", DPMSolverMultistepScheduler, [913, 837, 761]), ("ddim", DDIMScheduler, [914, 831, 748])],
)
def test_the_embedded_base_is_sampled_as_ever(choice: str, kind: type[SchedulerMixin], first: list[int]) -> None:
    """The configuration and the bytes of images are those of the library's own pipeline and conversion."""
    pipeline = load_pipeline(str(EMOJI), None, device=CPU, precision="float32", scheduler=choice)
    its = StableDiffusionPipeline.from_pretrained(EMOJI, dtype=torch.float32)
    its.scheduler = kind.from_config(its.scheduler.config)
    mine, theirs = ({k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (pipeline, its))
    assert mine == theirs
    pipeline.scheduler.set_timesteps(12)
    assert pipeline.scheduler.timesteps.tolist()[:3] == first
    rows = pd.DataFrame({"prompt": ["a photo of the ship"], "evaluation_seed": [1]})
    images = [sample_rows(p, rows, steps=4, guidance=4.0, batch=1)[0] for p in (pipeline, its)]
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == 1


def test_swapping_keeps_latents_unclipped(pipeline: DiffusionPipeline) -> None:
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config_of("EulerDiscreteScheduler"))
    use_scheduler(pipeline, "ddim")
    assert not pipeline.scheduler.config.clip_sample
    assert not pipeline.scheduler.config.set_alpha_to_one
