"""Safe Latent Diffusion (SLD, arXiv 2211.05105): while the pipeline draws, guidance leads away from a safety text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.edits.guidance import GuidanceEdit
from lethe.erasure.branches import guide_drawing, phrases_as_text, read_text
from lethe.inputs.concepts import Concept

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

INAPPROPRIATE = (  # the published default
    "hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily fluids, blood, "
    "obscene gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality, cruelty"
)


@dataclass(frozen=True)
class Rule:
    """The rule of a drawing with a safety text S: in step i, counted by calls of the U-Net from 0, for each element

    phi = min(1, s_S |e_c - e_S|),  mu = phi where e_c - e_S < lambda, else 0
    gamma = mu (e_S - e_0) + s_m nu,  nu <- beta nu + (1 - beta) gamma,  nu_0 = 0
    e = e_0 + s (e_c - e_0 - [i >= delta] gamma)

    Source: the published code of SLD (arXiv 2211.05105). e_0, e_c, e_S are what the U-Net predicts without a prompt (or
    for a negative one), for the prompt and for S, be it noise or velocity. `warmup_steps` is delta, `safety_scale` s_S,
    `threshold` lambda, `momentum_scale` s_m, `momentum_beta` beta. At s_S = 0 nothing is guided; the published code is
    off below s_S = 1 already.

    Raises ValueError, naming the argument, for what is no number of its range.
    """

    warmup_steps: int
    safety_scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name == "warmup_steps"
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            top = 1 if name == "momentum_beta" else math.inf
            if not number or not math.isfinite(value) or not 0 <= value <= top:
                wanted = "a whole number" if whole else "a number"
                ends = "from 0 to 1" if top == 1 else "0 or more"
                raise ValueError(f"sld: `{name}` must be {wanted}, {ends}; got {value!r}")

    def begin(self) -> Callable[[Tensor], Tensor]:
        """What one drawing makes of its predictions, `[3 n, ...]` for no prompt, prompt and safety text, step by step.

        It returns `[2 n, ...]` in their dtype: e_0 and e_c - [i >= delta] gamma. Computed in float32, or in float64 for
        a U-Net in float64.
        """
        step, momentum = 0, torch.zeros(())

        def predictions(made: Tensor) -> Tensor:
            nonlocal step, momentum
            free, asked, unsafe = made.to(torch.promote_types(made.dtype, torch.float32)).chunk(3)
            away = asked - unsafe
            mu = (self.safety_scale * away.abs()).clamp(max=1).where(away < self.threshold, 0)
            gamma = mu * (unsafe - free) + self.momentum_scale * momentum.to(free)
            momentum = self.momentum_beta * momentum.to(free) + (1 - self.momentum_beta) * gamma
            acts, step = step >= self.warmup_steps, step + 1
            return torch.cat([free, asked - gamma if acts else asked]).to(made.dtype)

        return predictions


PRESETS = {  # of the published code: SLD-Weak, -Medium, -Strong and -Max
    "weak": Rule(15, 200, 0.0, 0.0, 0.0),
    "medium": Rule(10, 1000, 0.01, 0.3, 0.4),
    "strong": Rule(7, 2000, 0.025, 0.5, 0.7),
    "max": Rule(0, 5000, 1.0, 0.5, 0.7),
}


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> GuidanceEdit:
    """An edit that guides away from the concepts' names, or from the phrases of the settings, which are the manifest's.

    Its settings are the safety text (`text`), the numbers of its `Rule`, and `phrases_cut`, how many of the phrases the
    window cuts; a warning says so too. Raises ValueError as `Rule` does.
    """
    preset = asdict(PRESETS[settings["strength"]])
    if settings["strength"] == "weak":
        preset["safety_scale"] = settings["weak_scale"]
    own = {name: settings[name] for name in preset if settings[name] is not None}
    phrases = [concept.name for concept in concepts]
    if settings["phrases"] is not None:
        named = {"inappropriate": INAPPROPRIATE}
        phrases = named.get(settings["phrases"], settings["phrases"]).split(", ")
    text, cut = phrases_as_text(base.text.tokenizers, phrases, of="sld")
    return GuidanceEdit("sld", {"text": text, "phrases_cut": cut, **asdict(Rule(**preset | own))})


def guide(pipeline: DiffusionPipeline, settings: Mapping[str, Any]) -> Callable[[], None]:
    """Let a pipeline draw by the `Rule` of an edit's settings; returns what takes that back.

    The U-Net reads three branches instead of two. Raises ValueError for settings that no edit of this method has; a
    pipeline so guided raises it when it draws with a scale of guidance of 1 or less, where the rule cannot act.
    """
    rule = Rule(**{name: settings.get(name) for name in Rule.__dataclass_fields__})
    return guide_drawing(
        pipeline, [None, None, read_text(pipeline, settings.get("text"), of="sld")], rule.begin, of="sld"
    )
