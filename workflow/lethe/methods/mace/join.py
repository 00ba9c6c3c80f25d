"""MACE (arXiv 2403.06135): refine all cross-attention projections, then fuse one LoRA per concept into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.bases.devices import exact
from lethe.edits.low_rank import LowRank, apply
from lethe.erasure.closed_form import SingularError, fuse, refine
from lethe.erasure.moments import ConceptMoments, Moment, total_moments

SCALE_CONVENTIONS = ("paper", "published-code")
FUSIONS = ("closed-form", "sum", "none")


@dataclass(frozen=True)
class RefinementSettings:
    """Weights of the refinement; names as in the configuration (`mace`) and in MACE's published settings."""

    scale_convention: str
    train_preserve_scale: float
    lamb: float

    @property
    def refine_scale(self) -> float:
        """Lambda of Eq. 2: `train_preserve_scale`, or its square under `published-code`, which applies it twice.

        Raises ValueError on another convention.
        """
        if self.scale_convention not in SCALE_CONVENTIONS:
            raise ValueError(
                f"scale_convention must be one of {', '.join(SCALE_CONVENTIONS)}; got {self.scale_convention!r}"
            )
        return self.train_preserve_scale ** (2 if self.scale_convention == "published-code" else 1)


@dataclass(frozen=True)
class MaceSettings(RefinementSettings):
    """Weights of both closed-form steps. Either convention applies `fuse_preserve_scale` once.

    `fusion` of `FUSIONS` is how the LoRAs enter the refined weights: by the paper's solve, added up, or not at all.
    """

    fuse_preserve_scale: float
    fusion: str = "closed-form"


def preserved(prior: Moment | None, domain_prior: Moment | None, *, weight: float) -> Tensor | None:
    """The second moment to preserve, prior + weight * domain prior, `[d, d]` float64; None when there is neither."""
    terms = [p.matrix * share for p, share in ((prior, 1.0), (domain_prior, weight)) if p is not None]
    return torch.stack(terms).sum(0) if terms else None


def refinement(moments: Iterable[ConceptMoments], prior: Tensor | None, settings: RefinementSettings) -> Tensor:
    """The transform T `[d, d]` that refines a base for these concepts together (Eq. 1-2)."""
    return _refined(total_moments(moments), prior, settings)


def _refined(total: ConceptMoments, prior: Tensor | None, settings: RefinementSettings) -> Tensor:
    with _mended_by("train_preserve_scale"):
        return refine(total.source, total.cross, prior, scale=settings.refine_scale, ridge=settings.lamb)


def transformed(projections: Mapping[str, Tensor], transform: Tensor) -> dict[str, Tensor]:
    """Every projection W `[out, d]` as W T, in its own dtype."""
    return {name: apply(weight, transform, []) for name, weight in projections.items()}


def join(
    projections: Mapping[str, Tensor],
    moments: Sequence[ConceptMoments],
    loras: Sequence[Mapping[str, LowRank]],
    prior: Tensor | None,
    settings: MaceSettings,
) -> tuple[Tensor, Iterator[dict[str, LowRank]]]:
    """Refinement and fusion (Eq. 1-2 and 6-7) as the factors of W* = W T2 + sum_i up_i down_i, in float64.

    Without the solve of fusion T2 is the T of refinement, and an update the LoRA as trained, or of rank 0.

    Goes through the concepts twice and holds one at a time, so with `moments` and `loras` that load what is asked for
    (`lethe.files.loaded.Loaded`) memory does not grow with their number.

    Args:
        projections: the base's, by module name.  moments, loras: one per concept, in the same order; the last bits of
            the result depend on that order.  prior: what `preserved` returns.
    Returns: T2 `[d, d]`, and an iterator over the concepts' updates of each projection.
    Raises: ValueError on an unknown fusion, when concepts and LoRAs differ in number, a system is singular, or, while
        iterating, a LoRA lacks a projection.
    """
    if settings.fusion not in FUSIONS:
        raise ValueError(f"join: fusion must be one of {', '.join(FUSIONS)}; got {settings.fusion!r}")
    if len(moments) != len(loras):
        raise ValueError(f"join: `moments` and `loras` must pair up; got {len(moments)} and {len(loras)}")
    total = total_moments(moments)
    transform = _refined(total, prior, settings)
    if settings.fusion == "none":
        return transform, iter([{name: LowRank.zero(weight) for name, weight in projections.items()}] * len(moments))
    fusion = None
    if settings.fusion == "closed-form":
        with _mended_by("fuse_preserve_scale"):
            fusion = fuse(transform, total.fusion, prior, scale=settings.fuse_preserve_scale, ridge=settings.lamb)

    def updates() -> Iterator[dict[str, LowRank]]:
        for concept, lora in zip(moments, loras, strict=True):
            if missing := sorted(set(projections) - set(lora)):
                raise ValueError(f"join: a LoRA has no update for {missing[0]}; was it trained on another base?")
            projected = fusion.project(concept.fusion, lora) if fusion else lora
            yield {name: projected[name] for name in projections}

    return fusion.transform if fusion else transform, updates()


def erase(
    projections: Mapping[str, Tensor],
    moments: Sequence[ConceptMoments],
    loras: Sequence[Mapping[str, LowRank]],
    prior: Tensor | None,
    settings: MaceSettings,
) -> dict[str, Tensor]:
    """The weights W* `[out, d]` of every projection, from W and what `join` takes, by module name.

    Computed in float64 and rounded once, to the dtype of `projections`. Raises ValueError as `join` does.
    """
    transform, concepts = join(projections, moments, loras, prior, settings)
    erased = {name: apply(exact(weight), transform, []) for name, weight in projections.items()}
    for updates in concepts:
        for name, weight in erased.items():
            updates[name].add_to(weight)
    return {name: weight.to(projections[name]) for name, weight in erased.items()}


@contextmanager
def _mended_by(scale: str) -> Iterator[None]:
    """Say which settings of this method the arguments of the solver are that would mend a singular system."""
    try:
        yield
    except SingularError as error:
        raise ValueError(f"{error} (lamb or {scale} of the method)") from None
