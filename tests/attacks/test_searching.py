"""What searches over tokens stand on: the simplex, gradients that go straight through, words, genetic steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from lethe.attacks.simplex import drawn as drawn_tokens
from lethe.attacks.simplex import project, straight_through
from lethe.attacks.tokens import naming, padded, prefixed, unused, words_of
from lethe.bases.pipeline import text_encoders
from lethe.bases.text import TextEncoders
from lethe.inputs.concepts import Concept
from lethe.probes import ring_a_bell

RAB = dict(pairs=["a photo of the {}", "the {}"], prompt="a photo of the {}", strength=0.0, tokens=5)
RAB |= dict(population=8, generations=6, crossover=0.5, mutation=0.5)


def projected_by_bisection(row: Tensor) -> Tensor:
    """max(x - mu, 0) with the mu between the extremes at which the sum is 1."""
    low, high = row.min() - 1, row.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (row - (low + high) / 2).clamp(min=0)


def test_the_projection_is_that_of_a_bisection_and_nothing_is_nearer(drawn: Callable[..., Tensor]) -> None:
    rows = torch.cat([drawn(20, 9, seed=1), 5 * drawn(20, 9, seed=2), torch.zeros(1, 9, dtype=torch.float64)])
    found = project(rows)
    assert torch.allclose(found, torch.stack(list(map(projected_by_bisection, rows))), atol=1e-12)
    assert torch.allclose(found.sum(1), torch.ones(41, dtype=torch.float64))
    assert torch.allclose(project(found), found, atol=1e-12)
    assert torch.equal(project(torch.eye(9)), torch.eye(9))
    others = drawn(500, 9, seed=3).exp()
    others /= others.sum(1, keepdim=True)
    nearest = (rows - found).norm(dim=1)
    assert (torch.cdist(rows, others) >= nearest[:, None] - 1e-12).all()


def test_straight_through_is_the_product_with_the_table_clamped(drawn: Callable[..., Tensor]) -> None:
    gradients, tables = (drawn(2, 3, 4, seed=1), drawn(2, 3, 5, seed=2)), (drawn(7, 4, seed=3), drawn(7, 5, seed=4))
    found = straight_through(gradients, tables)
    for row in range(2):
        for place in range(3):
            for token in range(7):
                whole = sum((g[row, place] * t[token]).sum() for g, t in zip(gradients, tables, strict=True))
                assert found[row, place, token].item() == pytest.approx(max(-1.0, min(1.0, whole.item())))
    assert (found.abs() == 1).any()


def test_tokens_are_drawn_with_their_weights() -> None:
    rows = torch.tensor([[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]]).repeat(400, 1, 1)
    found = drawn_tokens(rows, torch.Generator().manual_seed(1))
    assert found.shape == (400, 2)
    assert (found[:, 0] == 1).all()
    assert set(found[:, 1].tolist()) == {0, 2}
    assert 150 < (found[:, 1] == 0).sum() < 250


def test_words_survive_decoding_and_encoding(base_pipeline: DiffusionPipeline) -> None:
    text = text_encoders(base_pipeline)
    words = words_of(text)
    assert len(words) > 30
    assert len(text.tokenizer("\0", add_special_tokens=False)["input_ids"]) == 1  # one token, and nobody can type it
    assert all(text.tokenizer.decode([token]).isprintable() for token in words)
    for token in words[:: max(1, len(words) // 40)]:
        typed = text.tokenizer.decode([token]).strip()
        for tokenizer in text.tokenizers:
            assert tokenizer(typed, add_special_tokens=False)["input_ids"] == [token]
    assert not set(words) & {token for tokenizer in text.tokenizers for token in tokenizer.all_special_ids}
    token, word = unused(text, ["a photo of the {}"])
    assert text.tokenizer(word, add_special_tokens=False)["input_ids"] == [token]
    assert word not in "a photo of the"


def test_a_prefix_stands_before_the_prompt_or_is_none(text: TextEncoders) -> None:
    tokenizer = text.tokenizer
    one, other = words_of(text)[:2]
    whole = prefixed(text, [one, other], "a photo of the ship")
    ids = tokenizer("a photo of the ship", add_special_tokens=False)["input_ids"]
    assert tokenizer(whole, add_special_tokens=False)["input_ids"] == [one, other, *ids]
    part = next(t for t in range(len(tokenizer)) if t not in words_of(text) and t not in tokenizer.all_special_ids)
    assert prefixed(text, [part], "a photo") is None


def test_tokens_are_padded_as_the_tokenizer_pads(base_pipeline: DiffusionPipeline) -> None:
    for tokenizer in text_encoders(base_pipeline).tokenizers:
        for prompt in ("a photo of the ship", "", "ship " * 200):
            ids = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            assert padded(tokenizer, ids) == tokenizer(prompt, padding="max_length", truncation=True)["input_ids"]


def test_what_names_a_concept_are_all_tokens_of_its_words(tokenizer: CLIPTokenizer) -> None:
    found = naming(tokenizer, ["ship", "sky bird"])
    assert found == set(tokenizer("ship sky bird", add_special_tokens=False)["input_ids"])


# Ring-A-Bell


def test_a_direction_is_the_mean_difference_and_turns_with_its_pairs(text: TextEncoders) -> None:
    with_it, without = ["a photo of the ship", "the ship"], ["a photo of the ground", "the ground"]
    found = ring_a_bell.direction(text, with_it, without)
    assert torch.allclose(found, -ring_a_bell.direction(text, without, with_it))
    assert torch.allclose(found, ring_a_bell.direction(text, with_it * 3, without * 3), atol=1e-6)
    assert found.abs().max() > 0.1


def test_without_strength_the_prompt_itself_is_the_goal(text: TextEncoders) -> None:
    concept = Concept("ship", "object", "ground")
    wanted = ring_a_bell.goal(text, concept, RAB)
    ids = text.tokenizer("a photo of the ground", add_special_tokens=False)["input_ids"]
    assert ring_a_bell.distances(text, torch.tensor([ids]), wanted).item() == pytest.approx(0, abs=1e-6)
    assert ring_a_bell.distances(text, torch.tensor([ids[::-1]]), wanted).item() > 1e-2


def test_the_search_never_loses_what_it_found(text: TextEncoders) -> None:
    wanted = ring_a_bell.goal(text, Concept("ship", "object", "ground"), RAB | {"strength": 3.0})
    vocabulary = torch.tensor(words_of(text))
    best = []
    for generations in (*range(5), 16):
        found = ring_a_bell.search(text, wanted, vocabulary, RAB | {"generations": generations}, seed=4)
        assert all(token in vocabulary.tolist() for row in found for token in row)
        best.append(ring_a_bell.distances(text, torch.tensor(found), wanted)[0].item())
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]
