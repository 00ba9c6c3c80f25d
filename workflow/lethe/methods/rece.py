"""RECE, reliable and efficient concept erasure (arXiv 2407.12383): rounds of UCE against what evokes the concepts.

After an edit W to W T, the embedding that evokes a token c most closely is c' = K c, where
K = (T^T H T + r I)^-1 T^T H and H = sum_l W_l^T W_l over all cross-attention projections: the minimiser of
sum_l |W_l T c' - W_l c|^2 + r |c'|^2. A round sends every c' of a prompt to the state g of its guide in the same place,
by UCE's solve on the current weights:

    T <- T (ridge I + s_e sum g c'^T + s_p P) (ridge I + s_e sum c' c'^T + s_p P)^-1.

What is preserved, what the guides give, and the pull all refer to the weights of the round before. Everything is d x d,
since c' is linear in c: only H knows the U-Net. The published code selects its rounds on images of validation prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.erasure.closed_form import SingularError, factorise, refine
from lethe.erasure.tokens import WHOLE, pair_moments
from lethe.inputs.concepts import Concept
from lethe.methods import uce


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Solve for the product of all transforms in float64 and apply it to every projection, rounded once.

    `settings` are those of the manifest. `reads` holds `prior`, a Moment or None.
    Raises ValueError as `lethe.methods.uce.solve` does, and when a round's system is singular.
    """
    text, prior = base.text, reads["prior"]
    transform = uce.solve(text, concepts, {**settings, **settings["uce"]}, prior)
    if settings["rounds"]:
        pairs = uce.all_pairs(concepts, settings)
        source, cross = pair_moments(text, pairs, [(WHOLE, WHOLE)] * len(pairs))
        kept = uce.preserved(text, settings["preserve"], prior, settings["convention"])
        gram = gram_of((weight for _, weight in sorted(base.projections.items())), source.device)
        for _ in range(settings["rounds"]):
            transform = transform @ round_of(transform, gram, source, cross, kept, settings)
    return uce.edit_of(base, transform, concepts, settings["edit_form"])


def gram_of(projections: Iterable[Tensor], device: torch.device) -> Tensor:
    """H = sum_l W_l^T W_l `[d, d]`, float64, of the weights `[out, d]`, any floating dtype."""
    return sum(weight.mT @ weight for weight in (w.to(device, torch.float64) for w in projections))


def reviving(transform: Tensor, gram: Tensor, regularisation: float) -> Tensor:
    """K `[d, d]` float64, which takes a token's state to the one that evokes it after the edit W to W T.

    Raises SingularError when `regularisation` is 0 and the edit cannot be undone.
    """
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    seen = gram @ transform
    return factorise(transform.mT @ seen + regularisation * eye).divide(seen).mT


def round_of(
    transform: Tensor,
    gram: Tensor,
    source: Tensor,
    cross: Tensor,
    kept: Tensor | None,
    settings: Mapping[str, Any],
) -> Tensor:
    """The transform `[d, d]` float64 of one round on top of `transform`.

    source, cross: sums of c c^T and g c^T over every token.  kept: P, or None.
    Raises ValueError when one of its two systems is singular.
    """
    weight, at = settings["erase_scale"], "regularisation"
    try:
        revived = reviving(transform, gram, settings["regularisation"])
        found, sent = revived @ source @ revived.mT, cross @ revived.mT
        at = "ridge"
        return refine(weight * found, weight * sent, kept, scale=settings["preserve_scale"], ridge=settings["ridge"])
    except SingularError as error:
        raise ValueError(f"{error} ({at} of the method)") from None
