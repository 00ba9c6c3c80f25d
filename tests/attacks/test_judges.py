"""Judges and thresholds: what counts as success, and that controls do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import CPU
from lethe.attacks.controls import thresholds
from lethe.attacks.judges import Judge, Target, by_clip, scores, threshold
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.tables.protocols import class_probabilities

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("n", [1, 99, 100, 101, 350])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_threshold_is_passed_by_the_share_at_most_and_is_the_lowest(n: int, share: float) -> None:
    group = RNG.random(n).round(2)  # with ties
    found = threshold([group], share=share, least=0.0)
    assert (group >= found).mean() <= share
    lower = np.nextafter(found, 0) if found > 0 else -1
    assert (group >= lower).mean() > share or found == 0


def test_a_threshold_holds_for_every_group_and_never_falls_below_the_least() -> None:
    low, high = np.zeros(50), np.full(50, 0.8)
    assert threshold([low, np.zeros(0)], share=0.01, least=0.5) == 0.5
    assert 0.8 < threshold([low, high], share=0.01, least=0.5) < 0.8001
    assert threshold([high], share=1.0, least=0.3) == 0.3


def test_clip_judges_as_its_protocol(clip_folder: Path) -> None:
    judge = load_judge(str(clip_folder), device=CPU)
    classes = ["ship", "bird", "cat"]
    images = [RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(4)]
    found = by_clip(judge, classes, "a photo of the {}").tell(images)
    assert np.allclose(found.sum(1), 1)
    embedded = image_embeddings(judge, iter(images), [str(k) for k in range(4)])
    texts = text_embeddings(judge, [f"a photo of the {name}" for name in classes])
    for place in range(3):
        assert np.allclose(found[:, place], class_probabilities(embedded, texts, [place] * 4))


def test_success_is_on_top_and_above_the_threshold() -> None:
    told = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.3, 0.7, 0.0]])
    judge = Judge(("ship", "bird, fowl", "cat"), lambda images: told)
    tops, p, yes = Target(judge, "ship", 0.5).look([np.zeros((2, 2, 3), np.uint8)] * 3)
    assert tops == ["ship", "ship", "bird, fowl"]
    assert p.tolist() == [0.6, 0.4, 0.3]
    assert yes.tolist() == [True, False, False]
    assert scores(told, 0).tolist() == [0.6, 0.4, 0.0]
    assert judge.place("Fowl") == 1
    assert judge.knows("bird")
    with pytest.raises(ValueError, match="the judge has no class 'dog'"):
        judge.place("dog")
    assert Target(judge, "ship", 0.5).look([])[0] == []


def test_an_image_of_the_target_is_no_control_but_one_of_a_ghost_is() -> None:
    judge = Judge(("ship", "yeti"), lambda images: np.zeros((0, 2)))
    rows = pd.DataFrame(
        {
            "sort": ["others", "others", "ghosts", "random"],
            "subject": ["ship", "cat", "yeti", "cat"],
            "seen": [[0.99, 0.01], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]],
        }
    )
    found = thresholds(rows, judge, "seen", ["ship", "yeti"], share=0.01, least=0.5)
    assert found == pytest.approx({"ship": 0.6, "yeti": 0.7})
    assert found["ship"] > 0.6
