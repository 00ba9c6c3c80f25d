"""Second moments against loops over prompts and tokens."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from bad_input import Act, Case, Place, each_of, refusals, tensors_for
from conftest import CPU
from emoji_world.models import train_tokenizer
from lethe.bases.pipeline import text_encoders
from lethe.bases.text import TextEncoders
from lethe.erasure.moments import (
    BLOCK,
    ConceptMoments,
    Moment,
    aligned_moments,
    concept_moments,
    load_concept_moments,
    load_moment,
    moment_in_parts,
    save_concept_moments,
    save_moment,
    second_moment,
    total_moments,
)

TEMPLATES = ["a photo of the {}", "{} in the sky", "a picture of a {}"]
RECORD = {"step": "moments", "settings": {"name": "Charles-François Daubigny"}, "zeta": 1, "alpha": 2}


# Sums of outer products


@settings(derandomize=True, max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), d=st.integers(1, 6))
def test_second_moment_is_a_sum_over_tokens_however_they_are_batched(seed: int, sizes: list[int], d: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(n, 3, d, generator=generator, dtype=torch.float64) for n in [*sizes, 1]]
    before = [batch.clone() for batch in batches]
    want, tokens = torch.zeros(d, d, dtype=torch.float64), 0
    for batch in batches:
        for prompt in batch:
            for e in prompt:
                want, tokens = want + torch.outer(e, e), tokens + 1
    streamed, whole = second_moment(iter(batches)), second_moment([torch.cat(batches)])
    assert streamed.tokens == whole.tokens == tokens
    for got in (streamed.matrix, whole.matrix):
        assert (got - want).abs().max() < 1e-12 * max(1.0, want.abs().max())
    assert all(torch.equal(a, b) for a, b in zip(batches, before, strict=True))


@pytest.mark.parametrize("width", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("counts", [None, [2, 1, 3]])
def test_a_moment_of_any_width_is_symmetric(width: int, counts: list[int] | None, drawn: Callable[..., Tensor]) -> None:
    texts, want = drawn(3, 2, width), torch.zeros(width, width, dtype=torch.float64)
    for text, count in zip(texts, counts or [1, 1, 1], strict=True):
        for e in text:
            want += count * torch.outer(e, e)
    got = second_moment([texts[:1], texts[1:]], counts).matrix
    assert (got - want).abs().max() < 1e-12 * want.abs().max()
    assert torch.equal(got, got.mT)


def test_second_moment_sums_half_precision_in_float64() -> None:
    # 4096 ones in float16 would stop growing at 2048.
    moment = second_moment([torch.ones(4096, 1, dtype=torch.float16)])
    assert moment.matrix.dtype == torch.float64
    assert moment.matrix.item() == 4096


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 77, 4)]])
def test_second_moment_of_nothing_is_refused(batches: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="second_moment: `batches` must hold at least one embedding; got none"):
        second_moment(batches)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    cut=st.integers(0, 7),
    window=st.integers(1, 3),
)
def test_counts_are_repetitions(seed: int, counts: list[int], cut: int, window: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(len(counts), window, 4, generator=generator, dtype=torch.float64)
    want, tokens = torch.zeros(4, 4, dtype=torch.float64), 0
    for text, count in zip(texts, counts, strict=True):
        for _ in range(count):
            for e in text:
                want, tokens = want + torch.outer(e, e), tokens + 1
    moment = second_moment([texts[:cut], texts[cut:]], counts)
    assert moment.tokens == tokens
    assert (moment.matrix - want).abs().max() < 1e-12 * want.abs().max()


@pytest.mark.parametrize(("counts", "seen"), [([1], 2), ([1, 1, 1, 1], 3), ([], 2)])
def test_counts_must_pair_up_with_the_entries(counts: list[int], seen: int) -> None:
    text = f"`counts` must have one number for each entry; got {len(counts)} for {seen}"
    with pytest.raises(ValueError, match=text):
        second_moment([torch.ones(2, 3, 4), torch.ones(1, 3, 4)], counts)


# Moments in parts

TEXTS = ["a ship", "a bird", "a ship", "", "Ü", "a ship", "the sky", "a cat"]
MADE_BY = {"text": "1234", "threads": 1}


class Encoder:
    """Makes up states of any text, in batches of two, and remembers what it was asked for; dies after some texts."""

    def __init__(self, lives: int = 1000) -> None:
        self.lives, self.asked = lives, []

    def states(self, text: str) -> Tensor:
        return torch.randn(5, 3, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))

    def __call__(self, texts: Sequence[str]) -> Iterator[Tensor]:
        for k in range(0, len(texts), 2):
            if len(self.asked) >= self.lives:
                raise KeyboardInterrupt
            self.asked += texts[k : k + 2]
            yield torch.stack([self.states(text) for text in texts[k : k + 2]])


def test_moment_in_parts_is_a_sum_over_all_texts_and_encodes_each_once(tmp_path: Path) -> None:
    encoder, want = Encoder(), torch.zeros(3, 3, dtype=torch.float64)
    for text in TEXTS:
        for e in encoder.states(text).double():
            want += torch.outer(e, e)
    for size in (1, 2, 4, 100):
        encoder.asked.clear()
        moment = moment_in_parts(encoder, TEXTS, tmp_path / str(size), made_by=MADE_BY, size=size)
        assert moment.tokens == 5 * len(TEXTS)
        assert (moment.matrix - want).abs().max() < 1e-12 * want.abs().max()
        assert sorted(encoder.asked) == sorted(set(TEXTS))
    repeated = moment_in_parts(encoder, TEXTS * 3, tmp_path / "more", made_by=MADE_BY)
    assert repeated.tokens == 3 * moment.tokens
    assert (repeated.matrix - 3 * want).abs().max() < 1e-12 * want.abs().max()


def test_the_order_of_texts_changes_no_bit(tmp_path: Path) -> None:
    forth, back = (moment_in_parts(Encoder(), t, tmp_path, made_by=MADE_BY, size=2) for t in (TEXTS, TEXTS[::-1]))
    assert torch.equal(forth.matrix, back.matrix)


def test_an_interrupted_moment_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = moment_in_parts(Encoder(), TEXTS, tmp_path / "whole", made_by=MADE_BY, size=4)
    folder = tmp_path / "parts"
    for lives, parts in ((2, 0), (4, 1)):  # in the middle of a part, then between two
        with pytest.raises(KeyboardInterrupt):
            moment_in_parts(Encoder(lives), TEXTS, folder, made_by=MADE_BY, size=4)
        assert len(list(folder.iterdir())) == parts
    (folder / ".00000004-ab.safetensors.77.part").write_bytes(b"half")  # what a killed process leaves
    last = Encoder()
    resumed = moment_in_parts(last, TEXTS, folder, made_by=MADE_BY, size=4)
    assert last.asked == sorted(set(TEXTS))[4:]
    assert torch.equal(resumed.matrix, whole.matrix)
    assert resumed.tokens == whole.tokens
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())


@pytest.mark.parametrize(
    ("texts", "made_by", "kept"),
    [
        (TEXTS, MADE_BY, 3),
        ([*TEXTS, "a ship"], MADE_BY, 2),  # one text counts more often
        ([*TEXTS, "zebra"], MADE_BY, 2),  # sorted after all others
        ([*TEXTS, " "], MADE_BY, 0),  # sorted into the first part, so that all move on
        (TEXTS, MADE_BY | {"text": "1235"}, 0),
        (TEXTS, MADE_BY | {"threads": 2}, 0),
    ],
)
def test_parts_of_other_texts_or_makers_are_not_taken_up(
    tmp_path: Path, texts: list[str], made_by: dict, kept: int
) -> None:
    moment_in_parts(Encoder(), TEXTS, tmp_path / "parts", made_by=MADE_BY, size=2)
    before = set((tmp_path / "parts").iterdir())
    assert len(before) == 3
    moment = moment_in_parts(Encoder(), texts, tmp_path / "parts", made_by=made_by, size=2)
    after = set((tmp_path / "parts").iterdir())
    assert len(before & after) == kept
    assert len(after) == -(-len(set(texts)) // 2)  # stale parts are gone
    fresh = moment_in_parts(Encoder(), texts, tmp_path / "fresh", made_by=made_by, size=2)
    assert torch.equal(moment.matrix, fresh.matrix)


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    moment_in_parts(Encoder(), TEXTS, tmp_path / "parts", made_by=MADE_BY, size=4)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"6 distinct texts in 2 parts, 0 of them found in {tmp_path}/parts", "4 of 6 texts", "6 of 6 texts"]


def test_a_moment_of_no_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="moment_in_parts: `texts` must hold at least one text; got none"):
        moment_in_parts(Encoder(), [], tmp_path, made_by=MADE_BY)


# A concept


def moments_by_loop(pipeline: DiffusionPipeline, name: str, anchor: str, templates: list[str]) -> ConceptMoments:
    """One prompt and one token at a time; positions from the numbers of tokens of the prompt's parts."""
    d = pipeline.unet.config.cross_attention_dim

    def count(text: str) -> int:
        return len(pipeline.tokenizer(text, add_special_tokens=False).input_ids)

    @torch.no_grad()
    def states(prompt: str) -> Tensor:
        options = dict(device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return pipeline.encode_prompt(prompt, **options)[0][0].double()

    source, cross, fusion = (torch.zeros(d, d, dtype=torch.float64) for _ in range(3))
    for template in templates:
        before, _ = template.split("{}")
        with_name, with_anchor = states(template.replace("{}", name)), states(template.replace("{}", anchor))
        start, n, m = 1 + count(before), count(name), count(anchor)
        for k in range(77):
            fusion += torch.outer(with_name[k], with_name[k])
            if k < start:
                f, g = with_name[k], with_anchor[k]
            elif k >= start + max(n, m):
                f, g = with_name[k - max(0, m - n)], with_anchor[k - max(0, n - m)]
            else:
                continue
            source += torch.outer(f, f)
            cross += torch.outer(g, f)
    return ConceptMoments(source, cross, fusion)


@pytest.mark.parametrize(
    ("name", "anchor"),
    [("ship", "ground"), ("Charles-François Daubigny", "art"), ("bird", "a person on the ground"), ("AC/DC", "sky")],
)
def test_concept_moments_are_sums_over_aligned_words(base_pipeline: DiffusionPipeline, name: str, anchor: str) -> None:
    got = concept_moments(text_encoders(base_pipeline), name, anchor, TEMPLATES)
    want = moments_by_loop(base_pipeline, name, anchor, TEMPLATES)
    for part in ("source", "cross", "fusion"):
        a, b = getattr(got, part), getattr(want, part)
        assert a.dtype == torch.float64
        # Float32 states of a batch differ from those of a prompt alone by rounding.
        assert (a - b).abs().max() < 1e-5 * b.abs().max()
    assert (want.cross - want.source).norm() > 1e-2 * want.source.norm()


def test_aligned_moments_are_sums_over_places(drawn: Callable[..., Tensor]) -> None:
    phrases, anchors = drawn(3, 7, 5), drawn(3, 7, 5, seed=1)
    places = [([0, 3, 4, 5, 6], [0, 2, 3, 4, 5]), ([0, 1, 2, 3, 4], [0, 1, 4, 5, 6]), ([0, 6], [0, 5])]
    source, cross, fusion = (torch.zeros(5, 5, dtype=torch.float64) for _ in range(3))
    for row, pairs in enumerate(places):
        for f, g in zip(*pairs, strict=True):
            source += torch.outer(phrases[row, f], phrases[row, f])
            cross += torch.outer(anchors[row, g], phrases[row, f])
        for e in phrases[row]:
            fusion += torch.outer(e, e)
    got = aligned_moments(phrases, anchors, places)
    for part, want in (("source", source), ("cross", cross), ("fusion", fusion)):
        assert (getattr(got, part) - want).abs().max() < 1e-12 * want.abs().max()


def test_concept_moments_add_over_templates(text: TextEncoders) -> None:
    whole = concept_moments(text, "ship", "ground", TEMPLATES)
    parts = [concept_moments(text, "ship", "ground", [template]) for template in TEMPLATES]
    for part in ("source", "cross", "fusion"):
        total = sum(getattr(moments, part) for moments in parts)
        assert torch.allclose(getattr(whole, part), total, rtol=1e-5, atol=1e-4)


def test_a_concept_that_is_its_own_anchor_has_equal_source_and_cross(text: TextEncoders) -> None:
    moments = concept_moments(text, "ship", "ship", TEMPLATES)
    assert (moments.source - moments.cross).abs().max() < 1e-13 * moments.fusion.abs().max()


def test_a_name_that_two_tokenizers_count_differently_is_refused(tmp_path: Path) -> None:
    one = train_tokenizer(["!!"] * 9, tmp_path, merges=1, window=20)
    text = TextEncoders((one, CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")), ())
    with pytest.raises(ValueError, match=r"'the wham!!' is .* write it without '!'"):
        concept_moments(text, "wham!!", "a band", ["the {}"])


# Several concepts


def test_total_moments_adds_and_leaves_its_summands(drawn: Callable[..., Tensor]) -> None:
    parts = [ConceptMoments(*(drawn(3, 3, seed=10 * k + part) for part in range(3))) for k in range(4)]
    before = [[t.clone() for t in vars(part).values()] for part in parts]
    total = total_moments(iter(parts))
    for name in ("source", "cross", "fusion"):
        assert torch.allclose(getattr(total, name), sum(getattr(part, name) for part in parts), rtol=1e-14)
    for part, kept in zip(parts, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(part).values(), kept, strict=True))


def test_total_moments_of_no_concept_is_refused() -> None:
    with pytest.raises(ValueError, match="total_moments: `moments` must hold at least one concept; got none"):
        total_moments([])


# Files


def header(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lethe"])


def test_concept_moments_come_back_from_their_file(tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    wide = drawn(4, 8)
    moments = ConceptMoments(drawn(4, 4, seed=1), drawn(4, 4, seed=2).mT, wide[:, ::2])  # strides as they come
    save_concept_moments(tmp_path / "new" / "a.safetensors", moments, RECORD)
    back = load_concept_moments(tmp_path / "new" / "a.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(vars(moments).values(), vars(back).values(), strict=True))
    assert header(tmp_path / "new" / "a.safetensors") == RECORD


def test_a_prior_comes_back_from_its_file(tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    moment = Moment(drawn(4, 4), 12_345_678_901)
    save_moment(tmp_path / "prior.safetensors", moment, RECORD)
    back = load_moment(tmp_path / "prior.safetensors")
    assert torch.equal(back.matrix, moment.matrix)
    assert back.tokens == moment.tokens
    assert header(tmp_path / "prior.safetensors") == RECORD | {"tokens": moment.tokens}
    assert "tokens" not in RECORD


def test_equal_moments_give_equal_bytes(tmp_path: Path, drawn: Callable[..., Tensor]) -> None:
    for k in range(8):  # a header with several entries would come in changing order
        save_concept_moments(tmp_path / f"c{k}", ConceptMoments(*(drawn(3, 3, seed=s) for s in range(3))), RECORD)
        save_moment(tmp_path / f"p{k}", Moment(drawn(3, 3), 9), RECORD)
    assert len({path.read_bytes() for path in tmp_path.glob("c*")}) == 1
    assert len({path.read_bytes() for path in tmp_path.glob("p*")}) == 1


# Bad input

SQUARE = torch.eye(3, dtype=torch.float64)


def parts_in_a_link(place: Place) -> Act:
    """What is in the folder of a prior's parts is removed."""
    (place.work / "results/parts").symlink_to(place.outside)
    return lambda: moment_in_parts(lambda texts: [], ["a"], Path("results/parts"), made_by={})


CASES = [
    *refusals(
        "a prior",
        {
            "no square": (
                {"moment": SQUARE[:2]},
                {"tokens": 4},
                ("it must hold moment, square matrices", "make it again"),
            ),
            "float32": ({"moment": SQUARE.float()}, {"tokens": 4}, ("file.safetensors: it must hold moment",)),
            "another name": ({"matrix": SQUARE}, {"tokens": 4}, ("it holds matrix [3, 3]",)),
            "tokens that are no number": ({"moment": SQUARE}, {"tokens": "4"}, ("over how many tokens it sums",)),
            "without a record": ({"moment": SQUARE}, None, ("over how many tokens it sums",)),
        },
        tensors_for(load_moment),
    ),
    *refusals(
        "moments",
        {
            "one missing": ({"source": SQUARE, "cross": SQUARE}, ("it must hold source, cross, fusion",)),
            "of two sizes": (
                {"source": SQUARE, "cross": SQUARE, "fusion": torch.eye(4, dtype=torch.float64)},
                ("square matrices of one size in float64",),
            ),
            "infinity": ({"source": SQUARE / 0, "cross": SQUARE, "fusion": SQUARE}, ("source holds something other",)),
        },
        tensors_for(load_concept_moments),
    ),
    Case("a link: a folder to clear", parts_in_a_link, ("results/parts: it is a link", "remove the link")),
]


@each_of(CASES)
def test_bad_moments_are_refused_and_no_link_is_followed(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
