"""SPEED, null-space editing (arXiv 2503.07392): values' projections W become W + dW, where dW r = 0 to retain r.

With A = mean g c^T and B = mean c c^T over tokens c of the concepts and g of their guides, P a projector onto what the
texts to retain leave free, and K the invariants,

    dW = W (A - B) P Q M,  M = (B P + ridge I)^-1,  Q = I - M K (K^T P M K + slack I)^-1 K^T P.

As P M = P (P B P + ridge I)^-1 P =: N is symmetric, P Q M = N - N K (K^T N K + slack I)^-1 K^T N, which one symmetric
system solves. P is spanned by the directions in which R = mean r r^T is below tau, a threshold on the scale of
embeddings. What of the texts counts in R is chosen for each layer: those that the erasure would move most, and random
variations of them in the direction that the layer reads least. Without texts and invariants this is UCE (2025) with
weight 1/N, and as ridge -> 0 with one concept it is Double Projections (arXiv 2604.10032).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.devices import exact
from lethe.bases.text import TextEncoders
from lethe.edits.edit import Edit
from lethe.edits.low_rank import apply
from lethe.edits.weights import WeightEdit
from lethe.erasure.closed_form import SingularError, factorise, null_space
from lethe.erasure.layers import basis, chosen_projections
from lethe.erasure.tokens import WHOLE, last_states, last_subject_token, last_token, pair_moments, states_at
from lethe.inputs.concepts import Concept
from lethe.inputs.texts import unnamed

CHUNK = 128  # texts whose variations are compared with their own mean, as published
BEHIND = slice(1, None)  # every place but that of start-of-text


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Solve for each projection in float64, rounded once to the base's dtype.

    `settings` are those of the manifest, with `seed`. `reads` holds nothing.
    Raises ValueError without concepts, when a prompt does not fit into the window or has no token to erase, when the
    base's tokenizers count one differently, when a state is not finite, when the empty prompt has fewer tokens than
    invariants, when the system is singular, and when what is retained leaves nothing free.
    """
    text, layers = base.text, chosen_projections(base.projections, settings["projections"])
    source, cross = mean_moments(text, concepts, settings)
    retained = retained_states(text, unnamed(settings["retain"], concepts), settings["tokens"])
    kept = invariants_of(text, settings["invariants"])
    shift = cross - source
    eye = torch.eye(len(source), dtype=source.dtype, device=source.device)
    moved = factorise(source + eye).divide(shift)  # (A - B)(I + B)^-1: what the erasure does where nothing is retained
    by_layer = len(retained) > 0 and (settings["filter"] or settings["variations"] > 0)
    weights, changed, transform = {}, False, None
    for name, weight in base.computing(layers).items():
        if transform is None or by_layer:
            generator = torch.Generator().manual_seed(settings["seed"])  # anew, so that no layer depends on others
            tokens = refined(exact(weight), moved, retained, settings, generator) if by_layer else retained
            free = retaining(tokens, settings["tau"]) if len(tokens) else eye
            changed = changed or bool(free.any())
            try:
                solved = solution(source, free, kept, ridge=settings["ridge"], slack=settings["invariants_ridge"])
            except SingularError as error:
                raise ValueError(f"{error} (ridge of the method)") from None
            transform = eye + shift @ solved
        weights[f"{name}.weight"] = apply(weight, transform, [])
    if not changed:
        told = f"no direction of what is retained is below tau ({settings['tau']}), so nothing may change"
        raise ValueError(f"{told}; raise tau, or retain fewer texts")
    return WeightEdit(weights)


def mean_moments(text: TextEncoders, concepts: Sequence[Concept], settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """B = mean c c^T and A = mean g c^T `[d, d]`, float64, over the concepts' tokens. Raises ValueError as `erase`."""
    if not concepts:
        raise ValueError("`concepts` must hold at least one concept; got none")
    pairs = [(c.name, c.anchor if settings["guide"] is None else settings["guide"]) for c in concepts]
    places, tokens = [], 0
    for concept, guide in pairs:
        last, to = last_subject_token(text.tokenizer, concept), last_token(text.tokenizer, guide)
        pair = (BEHIND, BEHIND) if settings["tokens"] == "all" else (slice(last, last + 1), slice(to, to + 1))
        places.append(pair)
        tokens += len(range(text.tokenizer.model_max_length)[pair[0]])
    source, cross = pair_moments(text, pairs, places)
    return source / tokens, cross / tokens


def retained_states(text: TextEncoders, texts: Sequence[str], tokens: str) -> Tensor:
    """The states `[n, d]`, float64, of what to retain: the last token of each text, or all behind the first.

    Raises ValueError as `last_token` does.
    """
    if tokens == "last" or not texts:
        return last_states(text, texts)
    return torch.cat(list(states_at(text, texts, [BEHIND] * len(texts))))


def invariants_of(text: TextEncoders, centres: int | None) -> Tensor | None:
    """K `[d, 1 + centres]`, float64: the empty prompt's first token and centres of the others; None for None.

    The centres are those of k-means from tokens evenly spaced over the window, so nothing is drawn.
    Raises ValueError when there are more centres than tokens.
    """
    if centres is None:
        return None
    (empty,) = states_at(text, [""], [WHOLE])
    first, others = empty[:1], empty[1:]
    if centres > len(others):
        raise ValueError(f"invariants must be at most {len(others)}, as many tokens as stand behind the first")
    if centres:
        start = others[torch.linspace(0, len(others) - 1, centres).round().long()]
        found, _ = kmeans2(others.cpu().numpy(), start.cpu().numpy(), iter=100, minit="matrix")
        others = torch.from_numpy(found).to(others)
    return torch.cat([first, others[:centres]]).mT


def refined(
    weight: Tensor, moved: Tensor, tokens: Tensor, settings: Mapping[str, Any], generator: torch.Generator
) -> Tensor:
    """What of `tokens` `[n, d]` a layer W `[out, d]` retains, with variations of it, `[m, d]`.

    A token's influence is |W moved r|. With `filter` those of at least the mean stay, and of the variations of each
    `CHUNK` tokens those of at least theirs. A variation is r + z v, z drawn from N(0, 1), with v the last right
    singular vector of W.
    """

    def strongest(some: Tensor) -> Tensor:
        influence = torch.linalg.vector_norm(some @ (weight @ moved).mT, dim=1)
        return some[influence >= influence.mean() * (1 - 1e-12)] if settings["filter"] else some

    kept = strongest(tokens)
    if not settings["variations"]:
        return kept
    least = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    least = least * least[least.abs().argmax()].sign()  # which of the two is left to chance
    found = [kept]
    for chunk in kept.split(CHUNK):
        copies = chunk.repeat(settings["variations"], 1)
        amounts = torch.randn(len(copies), 1, generator=generator, dtype=copies.dtype).to(copies.device)
        found.append(strongest(copies + amounts * least))
    return torch.cat(found)


def retaining(tokens: Tensor, tau: float) -> Tensor:
    """P `[d, d]`: the projector onto the directions in which the mean of r r^T over `tokens` `[n, d]` is below tau."""
    free = null_space(tokens.mT @ tokens / len(tokens), tau)
    return free @ free.mT


def solution(source: Tensor, free: Tensor, kept: Tensor | None, *, ridge: float, slack: float) -> Tensor:
    """P Q M `[d, d]` float64, for which dW = W (A - B) P Q M.

    source: B.  free: P.  kept: K `[d, k]`, or None.
    Raises SingularError.
    """
    eye = torch.eye(len(source), dtype=source.dtype, device=source.device)
    found = factorise(free @ source @ free + ridge * eye).divide(free)  # P M
    if kept is None:
        return found
    if slack == 0:  # the same for all of a span, of which P may keep a part already: nothing to invert there
        kept = basis(free @ kept, relative=1e-9, to=torch.linalg.matrix_norm(kept, 2).item())
    seen = found @ kept
    inner = kept.mT @ seen + slack * torch.eye(kept.shape[1], dtype=kept.dtype, device=kept.device)
    return found - seen @ torch.linalg.solve(inner, seen.mT)
