"""Lists of texts without what a task erases."""

from __future__ import annotations

import pytest

from lethe.inputs.concepts import Concept
from lethe.inputs.texts import unnamed


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["ship"], ["shipping", "shipyard", "AC/DC", "Ada Lovelace", "C++ code"]),
        (["AC/DC", "c++"], ["Ship", "the ship.", "shipping", "shipyard", "a ship", "Ada Lovelace"]),
        (["ada  lovelace", "a"], ["Ship", "the ship.", "shipping", "shipyard", "AC/DC", "C++ code"]),
        (["Ada"], ["Ship", "the ship.", "shipping", "shipyard", "AC/DC", "a ship", "C++ code"]),
        ([], ["Ship", "the ship.", "shipping", "shipyard", "AC/DC", "a ship", "Ada Lovelace", "C++ code"]),
    ],
)
def test_texts_that_name_a_concept_as_a_word_are_left_out(names: list[str], left: list[str]) -> None:
    texts = ["Ship", "the ship.", "shipping", "shipyard", "AC/DC", "a ship", "Ada Lovelace", "C++ code", "shipping"]
    concepts = [Concept(name, "object", "sky") for name in names]
    assert unnamed(texts, concepts) == [text for text in dict.fromkeys(texts) if text in left]
