"""Protocols against loops, published numbers and known values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from scipy.stats import bootstrap as scipy_bootstrap

from lethe.tables import protocols

CLASSES = np.random.default_rng(1).normal(size=(4, 6)) * [[1], [5], [0.2], [30]]
IMAGES = np.random.default_rng(2).normal(size=(25, 6)) * np.random.default_rng(3).uniform(0.1, 9, (25, 1))
EXPECTED = list(np.random.default_rng(4).integers(0, 4, 25))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# CLIP


def test_accuracy_is_a_loop_over_images() -> None:
    hits = 0
    for image, expected in zip(IMAGES, EXPECTED, strict=True):
        similarities = [cosine(image, one) for one in CLASSES]
        hits += similarities.index(max(similarities)) == expected
    assert protocols.accuracy(IMAGES, CLASSES, EXPECTED) == hits / 25
    assert 0 < hits < 25


def test_class_probability_is_a_loop_over_images() -> None:
    total = 0.0
    for image, expected in zip(IMAGES, EXPECTED, strict=True):
        powers = [math.exp(100 * cosine(image, one)) for one in CLASSES]
        total += powers[expected] / sum(powers)
    assert protocols.class_probability(IMAGES, CLASSES, EXPECTED) == pytest.approx(total / 25, rel=1e-9)


def test_clip_score_is_a_loop_over_pairs() -> None:
    texts = IMAGES[::-1] + 0.5
    total = sum(100 * cosine(image, text) for image, text in zip(IMAGES, texts, strict=True))
    assert protocols.clip_score(IMAGES, texts) == pytest.approx(total / 25, rel=1e-9)


def test_lengths_of_embeddings_do_not_matter() -> None:
    for scores in (protocols.accuracy, protocols.class_probability):
        assert scores(IMAGES * 7, CLASSES / 3, EXPECTED) == pytest.approx(scores(IMAGES, CLASSES, EXPECTED), rel=1e-9)
    assert protocols.clip_score(IMAGES * 7, IMAGES / 3) == pytest.approx(100)
    assert protocols.clip_score(IMAGES, -IMAGES) == pytest.approx(-100)


def test_extreme_similarities_stay_finite() -> None:
    classes = np.array([[1.0, 0], [-1, 0]])
    assert protocols.class_probability(np.array([[3.0, 0]]), classes, [0]) == pytest.approx(1)
    assert protocols.class_probability(np.array([[3.0, 0]]), classes, [1]) == pytest.approx(math.exp(-200), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_normalised_rows_have_length_one_in_float64(dtype: type) -> None:
    rows = IMAGES.astype(dtype)
    before = rows.copy()
    scaled = protocols.normalised(rows)
    assert scaled.dtype == np.float64
    assert np.allclose((scaled**2).sum(axis=1), 1, rtol=1e-12)
    assert np.array_equal(rows, before)


def test_scores_of_no_image_are_refused() -> None:
    none = np.zeros((0, 6))
    for name, call in {
        "accuracy": lambda: protocols.accuracy(none, CLASSES, []),
        "class_probability": lambda: protocols.class_probability(none, CLASSES, []),
        "clip_score": lambda: protocols.clip_score(none, none),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: `images` must hold at least one image; got none"):
            call()


# The harmonic mean

# Rows of Table 1 of MACE (arXiv 2403.06135): Acc_e, Acc_s, Acc_g and the H_o printed beside them, in percent.
TABLE_1 = {
    "FMN, airplane": (96.76, 98.32, 94.15, 6.13),
    "AC, cat": (98.94, 98.63, 99.10, 1.45),
    "UCE, automobile": (4.73, 99.02, 37.25, 82.12),
    "SLD-M, bird": (80.72, 98.39, 85.00, 23.31),
    "ESD-x, airplane": (33.11, 97.15, 32.28, 74.98),
    "ESD-u, cat": (11.77, 91.45, 13.50, 88.68),
    "MACE, airplane": (9.06, 95.39, 10.03, 92.03),
    "MACE, automobile": (6.97, 95.18, 14.22, 91.15),
    "MACE, bird": (9.88, 97.45, 15.48, 90.39),
    "MACE, cat": (2.22, 98.85, 3.91, 97.56),
}


@pytest.mark.parametrize("row", TABLE_1.values(), ids=TABLE_1)
def test_h_o_is_the_published_one(row: tuple[float, ...]) -> None:
    erased, kept, generality, printed = row
    assert 100 * protocols.h_o(erased / 100, kept / 100, generality / 100) == pytest.approx(printed, abs=0.02)


@pytest.mark.parametrize("worst", [(1, 0.9, 0.1), (0.1, 0, 0.1), (0.1, 0.9, 1)])
def test_h_o_is_zero_when_one_part_is(worst: tuple[float, ...]) -> None:
    assert protocols.h_o(*worst) == 0


# Rows of Table 4 of MACE and of Table 2 of arXiv 2504.12782: Acc_e, Acc_s and the H_c printed beside them, in percent.
@pytest.mark.parametrize(
    ("erased", "kept", "printed"),
    [(4.31, 84.56, 89.78), (67.79, 85.05, 46.72), (18.70, 61.78, 70.21), (27.84, 27.93, 40.27)],
)
def test_h_c_is_the_published_one(erased: float, kept: float, printed: float) -> None:
    assert 100 * protocols.h_c(erased / 100, kept / 100) == pytest.approx(printed, abs=0.02)


def test_h_c_is_zero_when_one_part_is_and_no_h_o() -> None:
    assert protocols.h_c(1, 0.5) == protocols.h_c(0.5, 0) == 0
    assert protocols.h_c(0, 1) == 1
    assert protocols.h_c(0.2, 0.9) != protocols.h_o(0.2, 0.9, 0.2)


def test_h_o_of_a_perfect_edit_is_one() -> None:
    assert protocols.h_o(0, 1, 0) == pytest.approx(1)


# Frechet distance


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2) - 2 tr (C1^1/2 C2 C1^1/2)^1/2, by eigenvalues of symmetric matrices."""
    means, covariances = [f.mean(axis=0) for f in (x, y)], [np.cov(f, rowvar=False) for f in (x, y)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * cross)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(2, 6), n=st.integers(12, 40))
def test_fid_is_the_formula(seed: int, d: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n + 3, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    before = x.copy(), y.copy()
    assert protocols.fid(x, y) == pytest.approx(frechet(x, y), rel=1e-6)
    assert protocols.fid(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(frechet(x, y), rel=1e-4)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


def test_fid_of_equal_sets_is_zero() -> None:
    x = np.random.default_rng(0).normal(size=(40, 5))
    assert protocols.fid(x, x[::-1].copy()) == pytest.approx(0, abs=1e-6)


def test_fid_of_a_shifted_set_is_the_square_of_the_shift() -> None:
    x = np.random.default_rng(0).normal(size=(40, 5))
    assert protocols.fid(x + [3, 0, 4, 0, 0], x) == pytest.approx(25, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "name", "got"), [(6, 30, "images", 6), (30, 5, "reference", 5)])
def test_fid_refuses_as_many_dimensions_as_images(n: int, m: int, name: str, got: int) -> None:
    rng = np.random.default_rng(0)
    text = f"fid: `{name}` must hold more images than the 6 feature dimensions; got {got}"
    with pytest.raises(ValueError, match=text):
        protocols.fid(rng.normal(size=(n, 6)), rng.normal(size=(m, 6)))
    protocols.fid(rng.normal(size=(7, 6)), rng.normal(size=(7, 6)))


# Kernel distance


def test_kid_is_the_estimate_without_bias_where_every_image_is_drawn() -> None:
    """Of equal numbers of images each draw is all of them: k(x, x') - 2 k(x, y) + k(y, y'), over pairs, by a loop."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 5)), rng.normal(0.7, 1.3, size=(9, 5))
    before, state = (x.copy(), y.copy()), np.random.get_state()[1].copy()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    within = [sum(kernel(s[i], s[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8) for s in (x, y)]
    want = sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / 81
    assert protocols.kid(x, y, subsets=3) == pytest.approx(want, rel=1e-9)
    assert want > 0.1
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])
    assert np.array_equal(np.random.get_state()[1], state)


def test_kid_draws_by_its_seed_alone() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(0.5, 1, size=(60, 5)).astype(np.float32)
    first = protocols.kid(x, y, subsets=5, size=20)
    np.random.random(7)
    assert protocols.kid(x, y, subsets=5, size=20) == first
    assert protocols.kid(x, y, subsets=5, size=20, seed=1) != first
    assert first == protocols.kid(x.astype(np.float64), y.astype(np.float64), subsets=5, size=20)


@pytest.mark.parametrize(("n", "m", "name", "got"), [(1, 5, "images", 1), (5, 0, "reference", 0)])
def test_kid_refuses_sets_without_a_pair(n: int, m: int, name: str, got: int) -> None:
    with pytest.raises(ValueError, match=f"kid: `{name}` must hold at least 2 images; got {got}"):
        protocols.kid(np.ones((n, 3)), np.ones((m, 3)))


# Wilson's interval; the printed values are those of Newcombe, Statistics in Medicine 17 (1998), Table I, method 3.


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    assert protocols.interval(hits, n) == pytest.approx((low, high), abs=6e-5)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(n=st.integers(1, 300), share=st.floats(0, 1))
def test_interval_solves_wilsons_equation_and_mirrors(n: int, share: float) -> None:
    hits, z = round(share * n), 1.959963984540054
    low, high = protocols.interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for bound in (low, high):
        assert abs(hits / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-7)
    assert protocols.interval(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_names_say_a_version() -> None:
    names = [protocols.ACCURACY, protocols.CLASS_PROBABILITY, protocols.CLIP_SCORE, protocols.H_O]
    names += [protocols.H_C, protocols.H_A, protocols.FID_INCEPTION, protocols.KID_INCEPTION, protocols.FRECHET_CLIP]
    assert all(name.partition("@")[2].isdigit() for name in names)
    assert len(set(names)) == 9


@pytest.mark.parametrize(("hits", "n"), [(0, 18), (3, 40), (200, 400), (60, 60)])
def test_interval_of_a_share_is_jeffreys(hits: int, n: int) -> None:
    found = protocols.interval_of(lambda share: share, (hits, n))
    assert found == pytest.approx(beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5), abs=0.004)
    assert found == protocols.interval_of(lambda share: share, (hits, n))


@pytest.mark.parametrize(("erased", "kept"), [((0, 50), (45, 60)), ((12, 100), (100, 120)), ((90, 100), (60, 60))])
def test_interval_of_h_c_is_that_of_a_grid_of_shares(erased: tuple[int, int], kept: tuple[int, int]) -> None:
    """The two posteriors on a fine grid; the values of h_c there, and where their weights pass 2.5 and 97.5 %."""
    grid = (np.arange(1500) + 0.5) / 1500
    gone, stays = (beta.pdf(grid, k + 0.5, n - k + 0.5) for k, n in (erased, kept))
    weights = np.outer(gone, stays).ravel()
    values = (2 / (1 / (1 - grid[:, None]) + 1 / grid[None, :])).ravel()
    order = values.argsort()
    passed = weights[order].cumsum() / weights.sum()
    want = [values[order][np.searchsorted(passed, bound)] for bound in (0.025, 0.975)]
    assert protocols.interval_of(protocols.h_c, erased, kept) == pytest.approx(want, abs=0.006)


# Images drawn again


def test_a_bootstrap_is_that_of_scipy() -> None:
    """Its own percentile interval, of other draws."""
    rng = np.random.default_rng(7)
    values, others = rng.exponential(3, 80), rng.normal(5, 2, 50)
    found = protocols.mean_interval(values)
    want = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert found == pytest.approx(list(want), abs=0.08)
    np.random.seed(1)
    assert found == protocols.mean_interval(values.copy())  # whatever was drawn before

    def apart(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return b.mean(axis=axis) - a.mean(axis=axis)

    want = scipy_bootstrap((values, others), apart, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert protocols.bootstrap(protocols.h_a, values, others) == pytest.approx(list(want), abs=0.1)


@pytest.mark.parametrize("values", [(0.0, 1.0), (3.0, -1.0, 8.0), (1.0, 2.0, 4.0, 8.0)])
def test_interval_of_a_mean_is_that_of_all_samples(values: tuple[float, ...]) -> None:
    """The percentiles over each of the n^n samples, within the share of draws by which 2,000 of them may miss."""
    means = [sum(sample) / len(sample) for sample in itertools.product(values, repeat=len(values))]
    low, high = protocols.mean_interval(np.array(values))
    for found, wanted in ((low, 0.025), (high, 0.975)):
        below, up_to = (np.mean(of) for of in (np.less(means, found - 1e-9), np.less_equal(means, found + 1e-9)))
        assert below - 0.012 <= wanted <= up_to + 0.012


def test_a_bootstrap_of_equal_images_is_a_point_and_of_none_refused() -> None:
    assert protocols.mean_interval(np.full(9, 4.0)) == [4, 4]
    with pytest.raises(ValueError, match="bootstrap: `images` must hold at least one image; got none"):
        protocols.bootstrap(protocols.h_a, np.ones(3), np.ones(0))


def test_of_a_single_image_there_is_no_interval_but_that_of_a_share() -> None:
    one = np.array([4.0])
    assert protocols.mean_interval(one) is protocols.bootstrap(protocols.h_a, np.arange(9.0), one) is None
    assert protocols.count_interval(np.array([2])) is None
    assert protocols.count_interval(np.array([1])) == list(protocols.interval(1, 1))
    assert protocols.scaled(None, 100) is None


def test_a_sum_over_images_has_the_interval_of_their_share_where_each_has_one() -> None:
    none, some = np.zeros(20, int), np.repeat([1, 0], [3, 17])
    assert protocols.count_interval(none) == [20 * bound for bound in protocols.interval(0, 20)]
    assert protocols.count_interval(some) == [20 * bound for bound in protocols.interval(3, 20)]
    assert protocols.count_interval(some.astype(bool)) == protocols.count_interval(some)
    several = np.repeat([3, 0], [3, 17])
    assert protocols.count_interval(several) == [20 * bound for bound in protocols.mean_interval(several)]


def test_h_a_is_the_published_one() -> None:
    """MACE's row of its Table 3."""
    assert protocols.h_a(22.59, 28.58) == pytest.approx(5.99)
