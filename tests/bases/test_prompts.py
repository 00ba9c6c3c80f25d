"""The places of words in prompts, on real tokenizers: against tokens of the parts, one by one."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from tokenizers.decoders import ByteLevel
from transformers import CLIPTokenizer

from conftest import WINDOW
from emoji_world.models import train_tokenizer
from lethe.bases.prompts import aligned_positions, end_positions, phrase_positions
from lethe.bases.text import TextEncoders
from lethe.erasure.moments import concept_moments
from lethe.inputs.templates import fill

NAMES = [
    "ship",
    "light bulb",
    "Charles-François Daubigny",
    unicodedata.normalize("NFD", "Charles-François Daubigny"),
    "Guns N' Roses",
    "the artist's",
    "AC/DC",
    "O'Keeffe",
    "Ünïcødé",
    "葛飾北斎",
    "$(rm -rf ~)",
    "{braces}",
    "🦋",
    "R2-D2",
]
TEMPLATES = ["a photo of the {}", "{}", "{} in the sky", "a picture of {} on the ground"]
PUNCTUATED = ["{}, on the ground", "a photo ({})", "'{}'", "by {}!", "{}'s house, a photo"]


@pytest.fixture(params=["tokenizer", "world_tokenizer"])
def any_tokenizer(request: pytest.FixtureRequest) -> CLIPTokenizer:
    return request.getfixturevalue(request.param)


def ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def text_of(tokenizer: CLIPTokenizer, tokens: list[int]) -> str:
    """The letters of byte-level tokens, without spaces."""
    letters = "".join(token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(tokens))
    return ByteLevel().decode([letters])


def padded(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    return tokenizer(prompt, padding="max_length", truncation=True).input_ids


# Where a phrase is


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
def test_phrase_positions_are_those_of_its_parts(any_tokenizer: CLIPTokenizer, name: str, template: str) -> None:
    before, _, after = template.partition("{}")
    parts = [ids(any_tokenizer, text) for text in (before, name, after)]
    assert any_tokenizer(fill(template, name)).input_ids[1:-1] == sum(parts, []), "the prompt is its parts"
    start = 1 + len(parts[0])
    if start + len(parts[1]) > any_tokenizer.model_max_length - 1:
        with pytest.raises(ValueError, match="use a shorter name or template"):
            phrase_positions(any_tokenizer, template, name)
    else:
        assert phrase_positions(any_tokenizer, template, name) == range(start, start + len(parts[1]))


@pytest.mark.parametrize("template", PUNCTUATED)
@pytest.mark.parametrize("name", NAMES)
def test_phrase_positions_cover_the_phrase_and_no_more(tokenizer: CLIPTokenizer, name: str, template: str) -> None:
    # CLIP takes a run of punctuation for one word, so the phrase's last sign may get another token before a comma.
    tokens, found = tokenizer(fill(template, name)).input_ids, phrase_positions(tokenizer, template, name)
    wanted = "".join(unicodedata.normalize("NFC", name).lower().split())
    assert wanted in text_of(tokenizer, [tokens[k] for k in found])
    assert wanted not in text_of(tokenizer, [tokens[k] for k in found[1:]])
    assert wanted not in text_of(tokenizer, [tokens[k] for k in found[:-1]])


def test_a_token_that_holds_the_phrases_end_and_a_comma_belongs_to_the_phrase(tmp_path: Path) -> None:
    merged = train_tokenizer(["), (("] * 9, tmp_path, merges=4, window=20)
    template = "by ({}, cut"
    for phrase, tokens in [("(x)", ["((</w>", "x</w>", "),</w>", "c"]), ("y", ["(</w>", "y</w>", ",</w>", "c"])]:
        assert merged.convert_ids_to_tokens(merged(fill(template, phrase)).input_ids)[3:7] == tokens
    assert phrase_positions(merged, template, "(x)") == range(3, 6)
    assert phrase_positions(merged, template, "y") == range(4, 5)
    # The anchor leaves a bracket and a comma alone, which pair up with nothing.
    assert aligned_positions(merged, template, "(x)", "y") == ([0, 1, 2, *range(6, 20)], [0, 1, 2, *range(6, 20)])


@pytest.mark.parametrize("name", ["ship", "Charles-François Daubigny"])
def test_phrase_positions_find_the_phrase_and_not_the_same_word_before_it(tokenizer: CLIPTokenizer, name: str) -> None:
    (found,) = {tuple(ids(tokenizer, name))}
    template = name + " beside {}"
    positions = phrase_positions(tokenizer, template, name)
    prompt = tokenizer(fill(template, name)).input_ids
    assert tuple(prompt[k] for k in positions) == found
    assert positions.start > len(found)


def test_phrase_positions_refuse_a_phrase_beyond_the_window(tokenizer: CLIPTokenizer) -> None:
    name = "1" * 75
    assert len(phrase_positions(tokenizer, "{}", name)) == 75  # with start and end of text just 77
    text = "needs 78 tokens, the phrase 75 of them; the text encoder reads 77: use a shorter name or template"
    with pytest.raises(ValueError, match=text):
        phrase_positions(tokenizer, "a {}", name)
    assert len(phrase_positions(tokenizer, "{} cut here", name)) == 75  # words after the phrase may be cut


def test_a_name_too_long_for_the_text_encoder_is_refused(text: TextEncoders) -> None:
    """Its length in tokens is known once the base's tokenizer is loaded: the first step that reads the name says so."""
    name = "a very long name " * 20
    for act in (
        lambda: phrase_positions(text.tokenizer, "a photo of {}", name),
        lambda: concept_moments(text, name, "the sky", ["a photo of {}"]),
    ):
        with pytest.raises(ValueError, match=f"the text encoder reads {WINDOW}: use a shorter name or template"):
            act()


def test_phrase_positions_refuse_a_phrase_without_tokens(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(ValueError, match="phrase_positions: '' has no tokens in 'a {} here'"):
        phrase_positions(tokenizer, "a {} here", "")


# Words that pair up


def check_pairs(tokenizer: CLIPTokenizer, template: str, name: str, anchor: str) -> tuple[list[int], list[int]]:
    source, target = aligned_positions(tokenizer, template, name, anchor)
    with_name, with_anchor = (padded(tokenizer, fill(template, words)) for words in (name, anchor))
    assert len(source) == len(target)
    assert [with_name[k] for k in source] == [with_anchor[k] for k in target]
    for positions, words in ((source, name), (target, anchor)):
        assert positions == sorted(set(positions))
        assert positions[0] == 0
        assert not set(positions) & set(phrase_positions(tokenizer, template, words))
    return source, target


@pytest.mark.parametrize("template", TEMPLATES + PUNCTUATED)
@pytest.mark.parametrize("name", NAMES)
def test_aligned_positions_pair_equal_tokens(tokenizer: CLIPTokenizer, name: str, template: str) -> None:
    for anchor in ("sky", "a person", "a person's", "art!"):
        source, target = check_pairs(tokenizer, template, name, anchor)
        assert max(source[-1], target[-1]) == 76  # to the end of the window


@pytest.mark.parametrize("template", ["a photo of the {}", "the {} seen from the side, here"])
def test_aligned_positions_are_all_others_when_the_anchor_is_as_long(
    world_tokenizer: CLIPTokenizer, template: str
) -> None:
    source, target = check_pairs(world_tokenizer, template, "ship", "bird")
    assert source == target == sorted(set(range(28)) - set(phrase_positions(world_tokenizer, template, "ship")))


def test_aligned_positions_leave_out_only_the_phrase(world_tokenizer: CLIPTokenizer) -> None:
    # start a photo of the LIGHT BULB seen by me end ... against start a photo of the STAR seen by me end ...
    source, target = check_pairs(world_tokenizer, "a photo of the {} seen by", "light bulb", "star")
    assert source == [0, 1, 2, 3, 4, *range(7, 28)]
    assert target == [0, 1, 2, 3, 4, *range(6, 27)]


@pytest.mark.parametrize("name", ["winged creature", "ship", "a big old ship"])
def test_aligned_positions_pair_equal_tokens_when_a_prompt_is_cut(world_tokenizer: CLIPTokenizer, name: str) -> None:
    template = "a {} " + "in the middle of the page " * 5
    assert len(world_tokenizer(fill(template, "ship")).input_ids) > 28
    check_pairs(world_tokenizer, template, name, "star")


def test_aligned_positions_refuse_what_does_not_fit(world_tokenizer: CLIPTokenizer) -> None:
    for name, anchor in [("x" * 40, "sky"), ("ship", "x" * 40)]:
        with pytest.raises(ValueError, match="the text encoder reads 28: use a shorter name or template"):
            aligned_positions(world_tokenizer, "a {}", name, anchor)


# The end of a prompt


@pytest.mark.parametrize("prompt", ["", "a photo of the ship", "x " * 100])
def test_end_positions_are_end_of_text_to_the_window(any_tokenizer: CLIPTokenizer, prompt: str) -> None:
    end, window = any_tokenizer.eos_token_id, any_tokenizer.model_max_length
    expected = [k for k, token in enumerate(padded(any_tokenizer, prompt)) if token == end]
    assert list(end_positions(any_tokenizer, prompt)) == expected
    assert expected[-1] == window - 1


@pytest.mark.parametrize("prompt", ["", "a photo of the ship", "a ship!", "!", "x " * 100])
def test_positions_do_not_depend_on_what_pads(sd2_folder: Path, tokenizer: CLIPTokenizer, prompt: str) -> None:
    other = CLIPTokenizer.from_pretrained(sd2_folder / "tokenizer")
    tokens = padded(other, prompt)
    end = tokens.index(other.eos_token_id)
    assert set(tokens[end + 1 :]) <= {0}
    assert other.pad_token == "!"
    assert list(end_positions(other, prompt)) == list(end_positions(tokenizer, prompt)) == list(range(end, 77))
    template = prompt[:30] + " {} there"
    assert phrase_positions(other, template, "bird") == phrase_positions(tokenizer, template, "bird")
    assert aligned_positions(other, template, "bird", "a person") == aligned_positions(
        tokenizer, template, "bird", "a person"
    )
    check_pairs(other, template, "bird", "a person")
