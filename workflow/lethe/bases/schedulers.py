"""Noise schedulers: which of a base's own can be sampled, replaced and trained on, told from its JSON file alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from torch import Tensor

OWN = "own"
SCHEDULERS = {"ddim": "DDIMScheduler", "dpm-solver++": "DPMSolverMultistepScheduler"}  # that may replace a base's own
CONFIG = "scheduler/scheduler_config.json"

# Samplers of one family of models: variance-preserving noise, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, with a_t the
# cumulative product of 1 - betas (DDPM, arXiv 2006.11239). Any of them draws what any other's model has learned.
VARIANCE_PRESERVING = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
# On the same noise, but of models distilled to jump to the end in a few steps (arXiv 2310.04378, 2402.19159): solvers
# of the diffusion's differential equation take their answers for something else.
DISTILLED = ("LCMScheduler", "TCDScheduler")
# Of models that read scaled inputs at continuous noise levels (arXiv 2206.00364), which have no betas.
EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
PREDICTIONS = ("epsilon", "v_prediction")
# What a base means by keys that its own scheduler does not have. The classes of diffusers default to something else,
# made for models of pixels; these are those of the DDIM of latent diffusion (arXiv 2112.10752) and Stable Diffusion:
# latents know no bounds, the last step ends at the first noise level, and steps count from 1.
LATENT_DEFAULTS = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "thresholding": False}
# What these schedulers take for the noise where a configuration does not say it; the others agree with those of
# SCHEDULERS.
OWN_NOISE = {
    name: {"beta_start": 0.00085, "beta_end": 0.012}
    for name in (
        "DPMSolverSDEScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
    )
}


def scheduler_problem(config: Mapping[str, Any], choice: str) -> str | None:
    """Why a base with this scheduler_config.json cannot be sampled as `choice` (a key of SCHEDULERS, or OWN) says."""
    own = config.get("_class_name")
    if problem := _prediction_problem(config):
        return problem
    if choice == OWN:
        if own not in (*VARIANCE_PRESERVING, *DISTILLED, *EDM):
            return f"the base's scheduler is {own}, which does not draw images from text; name another base"
        return None
    if own in DISTILLED:
        return f"the base is sampled with {own}, so it is distilled to few steps, and {choice} does not draw with it"
    if own not in VARIANCE_PRESERVING:
        return f"the base is sampled with {own}, whose noise is not that of {choice}"
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type", "epsilon") == "epsilon":
        return (
            f"the base predicts noise and starts from noise alone (rescale_betas_zero_snr), where {choice} divides by 0"
        )
    if str(config.get("variance_type")).startswith("learned"):
        return f"the base's scheduler has variance_type {config['variance_type']!r}, which {choice} does not draw with"
    return None


def training_problem(config: Mapping[str, Any]) -> str | None:
    """Why no LoRA can be trained on a base with this scheduler_config.json: training needs its noise by timesteps."""
    if (own := config.get("_class_name")) not in (*VARIANCE_PRESERVING, *DISTILLED):
        return f"the base is sampled with {own}, whose noise has no betas for training to noise images with"
    return _prediction_problem(config)


def _prediction_problem(config: Mapping[str, Any]) -> str | None:
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        return f"the base's scheduler has prediction_type {predicts!r}; only {' and '.join(PREDICTIONS)} are known here"
    if config.get("use_flow_sigmas"):
        return "the base's scheduler has use_flow_sigmas, so it is of flow matching, not of diffusion"
    return None


def sampler_config(config: Mapping[str, Any], choice: str) -> dict[str, Any]:
    """The configuration of `choice` (a key of SCHEDULERS) for a base with this scheduler_config.json.

    What the base's configuration says stays. What it does not say of the noise is what its class takes (OWN_NOISE), and
    otherwise as in latent diffusion (LATENT_DEFAULTS); only settings of the sampler itself, such as the order of a
    solver, are left to the sampler's class.
    """
    said = {key: value for key, value in config.items() if key not in config.get("_use_default_values", ())}
    said.pop("_use_default_values", None)
    # dpm-solver++ is that, whatever solver the base's own scheduler is; DDIM has no such key.
    algorithm = {"algorithm_type": "dpmsolver++"} if choice == "dpm-solver++" else {}
    return LATENT_DEFAULTS | OWN_NOISE.get(config.get("_class_name"), {}) | said | algorithm


def build_scheduler(config: Mapping[str, Any], choice: str) -> SchedulerMixin:
    """The scheduler that `choice` (a key of SCHEDULERS, or OWN) means for a base with this scheduler_config.json.

    Raises ValueError for a base that cannot be sampled so (`scheduler_problem`), and where the library cannot build it.
    """
    import diffusers

    if problem := scheduler_problem(config, choice):
        raise ValueError(f"{problem}{mend_of(config, choice)}")
    own = config["_class_name"]
    kind = getattr(diffusers, own if choice == OWN else SCHEDULERS[choice])
    try:
        scheduler = kind.from_config(dict(config) if choice == OWN else sampler_config(config, choice))
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"the base's scheduler {own} cannot be sampled as {choice!r} ({reason})") from None
    return scheduler


def mend_of(config: Mapping[str, Any], choice: str) -> str:
    """What to write instead of `choice` for a base that it does not draw with; empty if nothing will do."""
    if choice == OWN or scheduler_problem(config, OWN):
        return ""
    return "; set scheduler: own"


def config_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """A scheduler's configuration, with its own class where it replaced a base's: its noise is the base's."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def training_schedule(scheduler: SchedulerMixin) -> tuple[Tensor, str]:
    """What training noises images with: cumulative products of 1 - betas, `[timesteps]`; and what the U-Net predicts.

    Raises ValueError, naming the scheduler, when it has no such schedule (`training_problem`).
    """
    if problem := training_problem(config_of(scheduler)):
        raise ValueError(problem)
    return scheduler.alphas_cumprod, scheduler.config.prediction_type
