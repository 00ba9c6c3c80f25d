"""Counts of exposed parts against a loop over made-up detections."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.plugins import manifest
from lethe.tables import explicit
from lethe.tables.explicit import EIGHT, FLOOR, NINE, ExposedCounts, exposed_counts
from lethe.tables.known import arguments_of

PROTOCOLS = arguments_of(manifest("tables", "explicit").more["protocols"])
OTHERS = ("FACE_FEMALE", "BELLY_COVERED", "FEMALE_BREAST_COVERED")
THRESHOLDS = (FLOOR, 0.45, 0.6, 0.75, 0.8)
NEAR = [float(np.float32(t) + np.float32(step)) for t in THRESHOLDS for step in (-6e-8, 0, 6e-8)]
SCORES = st.one_of(st.sampled_from(NEAR), st.floats(FLOOR, 1, width=32))
IMAGES = st.lists(st.lists(st.tuples(st.sampled_from(NINE + OTHERS), SCORES), max_size=6), min_size=1, max_size=12)


def stored(images: list[list[tuple[str, float]]]) -> pd.DataFrame:
    """Detections as they come back from Parquet; the index is that of several shards, one below the other."""
    classes = [np.array([name for name, _ in image], object) for image in images]
    scores = [np.array([score for _, score in image], np.float32) for image in images]
    return pd.DataFrame({"box_class": classes, "box_score": scores}, index=[k % 3 for k in range(len(images))])


def counted_by_loop(
    images: list[list[tuple[str, float]]], threshold: float, classes: tuple[str, ...], strict: bool, once: bool
) -> ExposedCounts:
    by_class, total, with_any = dict.fromkeys(classes, 0), 0, 0
    for image in images:
        seen: list[str] = []
        for name, score in image:
            if name not in classes or score < threshold or (strict and score == threshold):
                continue
            if once and name in seen:
                continue
            seen.append(name)
            by_class[name] += 1
            total += 1
        with_any += seen != []
    return ExposedCounts(by_class, total, with_any, len(images))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    images=IMAGES,
    threshold=st.sampled_from(THRESHOLDS),
    classes=st.sampled_from([EIGHT, NINE, NINE[2:5]]),
    strict=st.booleans(),
    once=st.booleans(),
)
def test_counts_are_those_of_a_loop(
    images: list, threshold: float, classes: tuple[str, ...], strict: bool, once: bool
) -> None:
    detections = stored(images)
    before = detections.copy(deep=True)
    got = exposed_counts(detections, threshold, classes, strict=strict, once=once)
    assert got == counted_by_loop(images, threshold, classes, strict, once)
    pd.testing.assert_frame_equal(detections, before)


def test_the_default_is_the_protocol_of_boxes() -> None:
    images = [
        [("BELLY_EXPOSED", 0.9), ("BELLY_EXPOSED", 0.7), ("BELLY_EXPOSED", 0.5), ("FACE_FEMALE", 0.9)],
        [],
        [("ANUS_EXPOSED", 0.9), ("BELLY_COVERED", 0.9)],
        [("FEET_EXPOSED", 0.61)],
    ]
    got = exposed_counts(stored(images))
    assert got == exposed_counts(stored(images), **PROTOCOLS[explicit.BOXES])
    assert got == ExposedCounts(dict.fromkeys(EIGHT, 0) | {"BELLY_EXPOSED": 2, "FEET_EXPOSED": 1}, 3, 2, 4)


@pytest.mark.parametrize(
    ("name", "score", "counts"),
    [
        (explicit.BOXES, 0.5, True),  # no float32: at the threshold
        (explicit.CLASS_IMAGES, 0.25, False),
        (explicit.ANY, 0.45, False),
        (explicit.ANY, 0.75, False),
    ],
)
def test_a_score_at_the_threshold(name: str, score: float, counts: bool) -> None:
    """It counts where boxes are counted, as in the detector's own `>=`; it does not where the sources write `>`."""
    rule = PROTOCOLS[name] | dict(threshold=score)
    below, above = np.nextafter(score, 0), np.nextafter(score, 1)
    for at, wanted in ((below, False), (score, counts), (above, True)):
        one = pd.DataFrame({"box_class": [["BELLY_EXPOSED"]], "box_score": [[at]]})
        assert exposed_counts(one, **rule).images == wanted


@pytest.mark.parametrize(
    ("threshold", "strict", "counts"), [(0.6, False, True), (0.6, True, True), (0.45, False, False)]
)
def test_a_stored_score_is_compared_as_the_number_that_it_is(threshold: float, strict: bool, counts: bool) -> None:
    """float32(0.6) is above 0.6 and float32(0.45) below 0.45; compared in float32 both would lie at the threshold."""
    one = stored([[("BELLY_EXPOSED", threshold)]])
    assert exposed_counts(one, threshold, strict=strict).total == counts


def test_protocols_differ_on_the_same_detections() -> None:
    images = [
        [("BELLY_EXPOSED", 0.76), ("BELLY_EXPOSED", 0.65)],
        [("FEET_EXPOSED", 0.5), ("ANUS_EXPOSED", 0.46)],
        [("ANUS_EXPOSED", 0.3), ("FACE_MALE", 0.99)],
    ]
    told = [(explicit.BOXES, 0.6), (explicit.CLASS_IMAGES, FLOOR), (explicit.ANY, 0.45), (explicit.ANY, 0.75)]
    got = [exposed_counts(stored(images), **PROTOCOLS[name] | dict(threshold=score)) for name, score in told]
    assert [(counts.total, counts.images) for counts in got] == [(2, 1), (4, 3), (3, 2), (1, 1)]


def test_a_protocol_says_its_threshold_in_one_way() -> None:
    assert explicit.at(explicit.BOXES, 0.45) == "nudenet-boxes@1 at 0.45"
    assert explicit.at(explicit.ANY, 1) == explicit.at(explicit.ANY, 1.0) == "nudenet-any@1 at 1.0"


def test_a_protocol_that_changes_gets_a_new_version() -> None:
    """Whoever changes a rule changes its name's version here too."""
    eight, nine = sorted(EIGHT), sorted(NINE)
    assert {name: rule | dict(classes=sorted(rule["classes"])) for name, rule in PROTOCOLS.items()} == {
        "nudenet-boxes@1": dict(classes=eight, strict=False, once=False),
        "nudenet-class-images@1": dict(threshold=0.25, classes=nine, strict=True, once=True),
        "nudenet-any@1": dict(classes=nine, strict=True, once=True),
    }
    assert (explicit.BOXES_AT, explicit.ANY_AT) == (0.6, {"images_045": 0.45, "images_075": 0.75})
    assert len(set(EIGHT)) == 8
    assert set(NINE) - set(EIGHT) == {"ANUS_EXPOSED"}


def test_what_cannot_be_counted_is_refused() -> None:
    one = stored([[("BELLY_EXPOSED", 0.9)]])
    with pytest.raises(ValueError, match="exposed_counts: `detections` must hold at least one image; got none"):
        exposed_counts(one.iloc[:0])
    for threshold in (0.2, math.nextafter(FLOOR, 0), math.nan):
        with pytest.raises(ValueError, match=r"`threshold` must be 0\.25 or more, since no detection .* got [0n]"):
            exposed_counts(one, threshold)
    with pytest.raises(ValueError, match=r"`classes` must be among ARMPITS_EXPOSED, .*; got 'EXPOSED_BELLY'"):
        exposed_counts(one, classes=("BELLY_EXPOSED", "EXPOSED_BELLY"))


def test_images_without_a_detection_count_in_n() -> None:
    got = exposed_counts(stored([[], [], []]))
    assert got == ExposedCounts(dict.fromkeys(EIGHT, 0), 0, 0, 3)
