"""Protocols: named, versioned ways to turn measures into numbers; different ones never share a column.

What each name means stands in `lethe/protocols.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import binomtest

ACCURACY = "clip-top1@1"
CLASS_PROBABILITY = "clip-softmax@1"
CLIP_SCORE = "clip-score-100cos@1"
CLIP_SCORE_UNNAMED = "clip-score-100cos-unnamed@1"
FRECHET_CLIP = "clip-frechet@1"
FID_INCEPTION = "cleanfid-clean-fid@1"
KID_INCEPTION = "cleanfid-clean-kid-x1000@1"
MEAN = "mean@1"
H_O = "h_o@1"
H_C = "h_c@1"  # without generality: another number, which never stands in a column of h_o
H_A = "h_a@1"
DRAWS = 2000  # of a bootstrap


def predicted_classes(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Index of the most similar class, int64 `[n]`, for embeddings `[n, d]` against class embeddings `[k, d]`."""
    return (normalised(images) @ normalised(classes).T).argmax(axis=1)


def accuracy(images: np.ndarray, classes: np.ndarray, expected: Sequence[int]) -> float:
    """Protocol `clip-top1@1`, as a share in [0, 1]. Raises ValueError without images."""
    _need("accuracy", images)
    return float((predicted_classes(images, classes) == np.asarray(expected)).mean())


def class_probability(images: np.ndarray, classes: np.ndarray, expected: Sequence[int]) -> float:
    """Protocol `clip-softmax@1`: mean probability of the expected class. Raises ValueError without images."""
    return float(class_probabilities(images, classes, expected).mean())


def class_probabilities(images: np.ndarray, classes: np.ndarray, expected: Sequence[int]) -> np.ndarray:
    """The same of each image, float64 `[n]`. Raises ValueError without images."""
    _need("class_probability", images)
    logits = 100 * normalised(images) @ normalised(classes).T
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = logits / logits.sum(axis=1, keepdims=True)
    return probabilities[np.arange(len(images)), np.asarray(expected)]


def clip_score(images: np.ndarray, texts: np.ndarray) -> float:
    """Protocol `clip-score-100cos@1` for paired embeddings `[n, d]`. Raises ValueError without images."""
    return float(clip_scores(images, texts).mean())


def clip_scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """The same of each pair, float64 `[n]`. Raises ValueError without images."""
    _need("clip_score", images)
    return 100 * (normalised(images) * normalised(texts)).sum(axis=1)


def fid(images: np.ndarray, reference: np.ndarray) -> float:
    """Frechet distance of two feature sets `[n, d]`, by clean-fid; to be named after the features, never 'FID' alone.

    Raises ValueError when a set has no more images than dimensions: its covariance would be singular.
    """
    from cleanfid.fid import fid_from_feats

    for name, features in (("images", images), ("reference", reference)):
        if len(features) <= features.shape[1]:
            raise ValueError(
                f"fid: `{name}` must hold more images than the {features.shape[1]} feature dimensions; "
                f"got {len(features)}"
            )
    return float(fid_from_feats(images.astype(np.float64), reference.astype(np.float64)))


def kid(images: np.ndarray, reference: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Kernel distance of two feature sets `[n, d]`, by clean-fid: an estimate without bias, so it may be below 0.

    The squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, the mean over `subsets` draws of `size`
    images of each set, or of as many as the smaller one has. Source: arXiv 1801.01401, sec. 4. The draws are those of
    `seed`, whatever was drawn before, and change nothing of what is drawn later.

    Raises ValueError when a set has fewer than 2 images.
    """
    from cleanfid.fid import kernel_distance

    for name, features in (("images", images), ("reference", reference)):
        if len(features) < 2:
            raise ValueError(f"kid: `{name}` must hold at least 2 images; got {len(features)}")
    before = np.random.get_state()
    np.random.seed(seed)  # clean-fid draws from numpy's own generator
    try:
        return kernel_distance(images.astype(np.float64), reference.astype(np.float64), subsets, size)
    finally:
        np.random.set_state(before)


def h_o(erased: float, kept: float, generality: float) -> float:
    """Harmonic mean of the shares 1 - Acc_e, Acc_s and 1 - Acc_g; 0 when one of them is 0. Source: MACE, Eq. 9."""
    parts = (1 - erased, kept, 1 - generality)
    return 0.0 if min(parts) <= 0 else 3 / sum(1 / part for part in parts)


def h_c(erased: float, kept: float) -> float:
    """Harmonic mean of the shares 1 - Acc_e and Acc_s; 0 when one of them is 0. Source: MACE, for celebrities."""
    parts = (1 - erased, kept)
    return 0.0 if min(parts) <= 0 else 2 / sum(1 / part for part in parts)


def h_a(erased: float, kept: float) -> float:
    """CLIP score of what is kept less that of what is erased. Source: MACE, for styles."""
    return kept - erased


def interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share."""
    bounds = binomtest(successes, n).proportion_ci(method="wilson")
    return bounds.low, bounds.high


def counted(hits: Iterable[bool]) -> dict[str, float | int | None]:
    """`value`, the share of hits in percent, with `n` and its Wilson interval, `low_95` and `high_95`.

    All but n are None where there are none.
    """
    found = [bool(hit) for hit in hits]
    n, yes = len(found), sum(found)
    if not n:
        return {"value": None, "n": 0, "low_95": None, "high_95": None}
    value, low, high = (round(100 * share, 2) for share in (yes / n, *interval(yes, n)))
    return {"value": value, "n": n, "low_95": low, "high_95": high}


def interval_of(function: Callable[..., float], *shares: tuple[int, int], draws: int = 10_000) -> tuple[float, float]:
    """95 % interval of a function of independent shares, each (successes, n).

    Each share is drawn from its Jeffreys posterior, Beta(successes + 1/2, n - successes + 1/2), with a fixed seed, so
    that a share of 0 or 1 does not count as sure.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.beta(successes + 0.5, n - successes + 0.5, draws) for successes, n in shares]
    low, high = np.percentile([function(*one) for one in zip(*drawn, strict=True)], [2.5, 97.5])
    return float(low), float(high)


def bootstrap(function: Callable[..., float], *samples: np.ndarray, draws: int = DRAWS) -> list[float] | None:
    """95 % percentile interval of a function of the means of independent samples, each `[n]`, one value an image.

    Images are drawn again from each sample by itself, with replacement and a fixed seed. None where a sample has one
    image, which says nothing about others. Raises ValueError when a sample is empty.
    """
    for values in samples:
        _need("bootstrap", values)
    if min(map(len, samples)) == 1:
        return None
    rng = np.random.default_rng(0)
    found = [
        function(*(values[rng.integers(len(values), size=len(values))].mean() for values in samples))
        for _ in range(draws)
    ]
    return [float(bound) for bound in np.percentile(found, [2.5, 97.5])]


def mean_interval(values: np.ndarray) -> list[float] | None:
    """95 % bootstrap interval of a mean over images, whose values are `[n]`. Raises ValueError without images."""
    return bootstrap(float, values)


def count_interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of a sum over images, whose values `[n]` are counts. Raises ValueError without images.

    Where an image has at most one it is n times the Wilson interval of their share, so that none does not count as
    sure; of more it is a bootstrap.
    """
    _need("count_interval", values)
    n = len(values)
    return scaled(interval(int(values.sum()), n) if values.max() <= 1 else mean_interval(values), n)


def scaled(bounds: Sequence[float] | None, factor: float) -> list[float] | None:
    """The interval of a number times a factor, such as 100 for percent; None where there is none."""
    return None if bounds is None else [factor * bound for bound in bounds]


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64."""
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _need(function: str, images: np.ndarray) -> None:
    if len(images) == 0:
        raise ValueError(f"{function}: `images` must hold at least one image; got none")
