"""Edits: what is saved comes back, what does not belong is refused and leaves the U-Net alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bad_input import Act, Case, Place, Prepare, each_of, refusals, tensors_for
from lethe.bases.unet import cross_attention_projections
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank, apply
from lethe.edits.weights import WeightEdit
from lethe.erasure.closed_form import fuse

CONCEPTS = ["ship", "Charles-François Daubigny"]
BASE = {"name": "tiny", "model": "some/folder", "fingerprint": "f" * 64}
RECORD = {"step": "mace", "base": BASE, "concepts": CONCEPTS, "a": 1}


def state_of(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


@pytest.fixture
def edit(unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> Edit:
    """New weights for all cross-attention projections of the tiny U-Net."""
    weights = {
        f"{name}.weight": drawn(*module.weight.shape, seed=k).float()
        for k, (name, module) in enumerate(cross_attention_projections(unet).items())
    }
    return WeightEdit(weights, RECORD)


@pytest.fixture
def factored(unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> FactoredEdit:
    """A transform and updates of rank 1 and 2 for all cross-attention projections of the tiny U-Net."""
    return FactoredEdit.stacked(
        torch.eye(32) + 0.1 * drawn(32, 32, seed=5), zip(CONCEPTS, updates_of(unet, drawn), strict=True), RECORD
    )


def updates_of(unet: UNet2DConditionModel, drawn: Callable[..., Tensor]) -> list[dict[str, LowRank]]:
    shapes = {name: module.weight.shape for name, module in cross_attention_projections(unet).items()}
    return [
        {
            name: LowRank(drawn(rank, shape[1], seed=100 * rank + k), drawn(shape[0], rank, seed=500 * rank + k))
            for k, (name, shape) in enumerate(shapes.items())
        }
        for rank in (1, 2)
    ]


def test_an_edit_comes_back_from_its_file(tmp_path: Path, edit: Edit) -> None:
    edit.save(tmp_path / "deep" / "edit.safetensors")
    back = Edit.load(tmp_path / "deep" / "edit.safetensors")
    assert back.record == edit.record
    assert back.weights.keys() == edit.weights.keys()
    assert all(torch.equal(back.weights[name], weight) for name, weight in edit.weights.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["edit.safetensors"]


def test_equal_edits_give_equal_bytes(tmp_path: Path, edit: Edit) -> None:
    turned = WeightEdit(dict(reversed(edit.weights.items())), dict(reversed(edit.record.items())))
    for k in range(8):
        (edit if k % 2 else turned).save(tmp_path / str(k))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_apply_edit_changes_the_named_weights_and_no_others(unet: UNet2DConditionModel, edit: Edit) -> None:
    before = state_of(unet)
    edit.install(SimpleNamespace(unet=unet), base_fingerprint="f" * 64)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, edit.weights.get(name, before[name]))
    assert sum(name in edit.weights for name in before) == len(edit.weights) == 14


def test_apply_edit_keeps_the_dtype_and_the_parameters(unet: UNet2DConditionModel, edit: Edit) -> None:
    unet = unet.to(torch.bfloat16)
    parameters = dict(unet.named_parameters())
    edit.install(SimpleNamespace(unet=unet), base_fingerprint="f" * 64)
    for name, weight in edit.weights.items():
        assert dict(unet.named_parameters())[name] is parameters[name]
        assert torch.equal(parameters[name], weight.to(torch.bfloat16))


def test_an_edit_for_another_base_is_refused(unet: UNet2DConditionModel, edit: Edit) -> None:
    before = state_of(unet)
    text = (
        f"the edit was made for base tiny \\({'f' * 12}\\), this one is {'e' * 12}; make the edit again for this base"
    )
    with pytest.raises(ValueError, match=text):
        edit.install(SimpleNamespace(unet=unet), base_fingerprint="e" * 64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("mid_block.nothing.weight", (3, 3), "the base has no parameter mid_block.nothing.weight"),
        ("conv_in.bias", (3,), r"conv_in.bias is \[3\] in the edit and \[16\] in the base"),
    ],
)
def test_an_edit_that_does_not_fit_leaves_the_unet_alone(
    unet: UNet2DConditionModel, edit: Edit, name: str, shape: tuple[int, ...], text: str
) -> None:
    before = state_of(unet)
    unfit = WeightEdit(edit.weights | {name: torch.zeros(shape)}, edit.record)  # the last one of many that do fit
    with pytest.raises(ValueError, match=f"the edit does not fit: {text}"):
        unfit.install(SimpleNamespace(unet=unet), base_fingerprint="f" * 64)
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_a_file_without_a_record_is_no_edit(tmp_path: Path, header: dict[str, str] | None) -> None:
    save_file({"conv_in.bias": torch.zeros(3)}, tmp_path / "weights.safetensors", header)
    with pytest.raises(ValueError, match=r"weights\.safetensors: this is no edit \(its header has no 'lethe' record\)"):
        Edit.load(tmp_path / "weights.safetensors")


# Factors


def test_factors_come_back_from_their_file_twice_the_same_bytes(tmp_path: Path, factored: FactoredEdit) -> None:
    for name in ("a", "b"):
        factored.save(tmp_path / name)
    back = Edit.load(tmp_path / "a")
    assert isinstance(back, FactoredEdit)
    assert torch.equal(back.transform, factored.transform)
    assert back.updates.keys() == factored.updates.keys()
    for name, update in factored.updates.items():
        assert torch.equal(back.updates[name].down, update.down)
        assert torch.equal(back.updates[name].up, update.up)
    assert (back.rows, back.record) == (factored.rows, RECORD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {tensor.dtype for tensor in load_file(tmp_path / "a").values()} == {torch.float32}


def test_applied_factors_are_the_transform_and_every_concepts_update(
    unet: UNet2DConditionModel, factored: FactoredEdit, drawn: Callable[..., Tensor]
) -> None:
    before, (first, second) = state_of(unet), updates_of(unet, drawn)
    transform = torch.eye(32).double() + 0.1 * drawn(32, 32, seed=5)
    factored.install(SimpleNamespace(unet=unet), base_fingerprint="f" * 64)
    changed = {name: tensor for name, tensor in unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed.keys() == {f"{name}.weight" for name in first}
    for name, got in changed.items():
        projection = name.removesuffix(".weight")
        want = before[name].double() @ transform
        for concept in (first, second):
            for row in range(len(concept[projection].down)):
                want += torch.outer(concept[projection].up[:, row], concept[projection].down[row])
        assert (got.double() - want).abs().max() < 1e-6 * want.abs().max()  # float32 factors, float32 weights


def test_a_concepts_own_factors_can_be_told_apart(
    tmp_path: Path, unet: UNet2DConditionModel, factored: FactoredEdit, drawn: Callable[..., Tensor]
) -> None:
    factored.save(tmp_path / "edit")
    back = Edit.load(tmp_path / "edit")
    assert list(back.rows.items()) == [("ship", (0, 1)), ("Charles-François Daubigny", (1, 3))]
    for concept, updates in zip(CONCEPTS, updates_of(unet, drawn), strict=True):
        share = back.share(concept)
        assert share.keys() == updates.keys()
        for name, update in updates.items():
            assert torch.equal(share[name].down, update.down.float())
            assert torch.equal(share[name].up, update.up.float())


def test_both_forms_of_one_join_give_the_same_weights_and_factors_are_small(tmp_path: Path) -> None:
    """On the cross-attention of Stable Diffusion 1.x: 32 projections of text states of width 768."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    widths = [320] * 5 + [640] * 5 + [1280] * 6
    weights = {f"block{k}.{part}": draw(out, 768) / 28 for k, out in enumerate(widths) for part in ("to_k", "to_v")}
    half = draw(768, 900).double() * torch.logspace(0, -3, 768).double()[:, None]
    moment = half @ half.mT
    fusion = fuse(torch.eye(768) + 0.05 * draw(768, 768), moment, None, scale=0, ridge=1)
    concepts = {
        name: fusion.project(moment / 3, {key: LowRank(draw(1, 768), draw(len(w), 1)) for key, w in weights.items()})
        for name in ("a", "b", "c")
    }
    exact = {n: apply(w, fusion.transform, [c[n] for c in concepts.values()]) for n, w in weights.items()}
    whole = WeightEdit(
        {f"{name}.weight": weight for name, weight in exact.items()}, RECORD | {"concepts": list(concepts)}
    )
    small = FactoredEdit.stacked(fusion.transform, concepts.items(), whole.record)
    for name, edit in (("whole", whole), ("small", small)):
        edit.save(tmp_path / name)
    edited = Edit.load(tmp_path / "small").edited({f"{name}.weight": w for name, w in weights.items()})
    off = max(
        ((edited[name].double() - weight.double()).abs().max() / weight.abs().max()).item()
        for name, weight in whole.weights.items()
    )
    assert 0 < off < 1e-6
    numbers = {"whole": 2 * sum(widths) * 768, "small": 768**2 + 3 * (32 * 768 + 2 * sum(widths))}
    for name, count in numbers.items():
        assert 4 * count < (tmp_path / name).stat().st_size < 4 * count + 20_000  # and a header
    assert numbers["whole"] > 25 * numbers["small"]


# Headers that lie


def rewritten(path: Path, target: Path, change: Callable[[dict, dict], None]) -> Path:
    """A copy of an edit's file with its record and tensors changed."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["lethe"])
    tensors = load_file(path)
    change(record, tensors)
    save_file(tensors, target, {"lethe": json.dumps(record)})
    return target


def put(*keys: str, value: object) -> Callable[[dict, dict], None]:
    """Set a value of the record."""

    def change(record: dict, tensors: dict) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


def hold(name: str, tensor: Tensor | None) -> Callable[[dict, dict], None]:
    """Set or drop a tensor."""

    def change(record: dict, tensors: dict) -> None:
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor

    return change


DOWN = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.down"
UP = DOWN.replace(".down", ".up")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put("edit", value=None), "names no format"),
        (put("edit", value={}), "names no format"),
        (put("edit", "format", value=2), "has format 2, this Lethe reads 1; use a version that fits"),
        (put("edit", "form", value="diff"), "the form 'diff' is unknown; it must be one of weights, factors, guidance"),
        (put("edit", "form", value=["x"]), "is unknown"),
        (put("base", value="tiny"), "does not say which base"),
        (put("base", "fingerprint", value=7), "does not say which base"),
        (put("base", "variant", value="../x"), "the header's variant of the base, '../x', is no name"),
        (put("step", value=None), "does not say which method"),
        (put("concepts", value="ship"), "does not say which concepts"),
        (put("concepts", value=["ship"]), "the header's rows are not those of its concepts"),
        (put("concepts", value=["ship", "ship"]), "rows of 'ship' do not follow"),
        (put("concepts", value=["ship", "bird"]), "rows of 'bird' do not follow"),
        (put("edit", "rows", value=None), "rows of 'ship' do not follow"),
        (put("edit", "rows", "ship", value=[0, 2]), "rows of 'Charles-François Daubigny' do not follow"),
        (put("edit", "rows", "ship", value=[1, 0]), "rows of 'ship' do not follow"),
        (put("edit", "rows", "Charles-François Daubigny", value=[1, 4]), r"down must be \[4, 32\] and up \[any, 4\]"),
        (hold("transform", None), r"transform must be a square matrix; it is \[0\]"),
        (hold("transform", torch.zeros(32, 31)), r"transform must be a square matrix; it is \[32, 31\]"),
        (hold("transform", torch.zeros(31, 31)), r"down must be \[3, 31\]"),
        (hold("transform", torch.full((32, 32), torch.nan)), "transform holds something other than finite"),
        (hold("transform", torch.zeros(32, 32, dtype=torch.int32)), "transform holds something other than finite"),
        (hold(DOWN, None), "must be pairs"),
        (hold(DOWN.replace("to_k", "to_q"), torch.zeros(3, 32)), "must be pairs"),
        (hold(DOWN, torch.zeros(2, 32)), r"they are \[2, 32\] and \[32, 3\]"),
        (hold(UP, torch.zeros(32)), r"they are \[3, 32\] and \[32\]"),
    ],
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, factored: FactoredEdit, change: Callable[[dict, dict], None], text: str
) -> None:
    factored.save(tmp_path / "good")
    bad = rewritten(tmp_path / "good", tmp_path / "bad.safetensors", change)
    with pytest.raises(ValueError, match=rf"bad\.safetensors: .*{text}"):
        Edit.load(bad)
    Edit.load(rewritten(tmp_path / "good", tmp_path / "copy", lambda record, tensors: None))


def test_an_edit_without_tensors_is_refused(tmp_path: Path) -> None:
    WeightEdit({}, RECORD).save(tmp_path / "empty")
    with pytest.raises(ValueError, match="the edit changes nothing"):
        Edit.load(tmp_path / "empty")


def test_what_is_no_safetensors_file_or_half_of_one_is_refused(tmp_path: Path, edit: Edit) -> None:
    edit.save(tmp_path / "edit")
    (tmp_path / "half").write_bytes((tmp_path / "edit").read_bytes()[:5000])
    (tmp_path / "text").write_text("an edit")
    for name in ("half", "text"):
        with pytest.raises(ValueError, match=f"{name}: this is no safetensors file, or only a part of one"):
            Edit.load(tmp_path / name)


def test_factors_for_another_network_leave_it_alone(unet: UNet2DConditionModel, factored: FactoredEdit) -> None:
    before = state_of(unet)
    first = next(iter(factored.updates))
    wider = LowRank(factored.updates[first].down, torch.zeros(17, 3))
    unfit = FactoredEdit(factored.transform, factored.updates | {first: wider}, factored.rows, RECORD)
    with pytest.raises(ValueError, match=r"is \[17, 32\] in the edit and \[16, 32\] in the base"):
        unfit.install(SimpleNamespace(unet=unet), base_fingerprint="f" * 64)
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())


# Bad input

WEIGHTS = {"conv_in.bias": torch.ones(16)}
OF_WEIGHTS = RECORD | {"edit": {"format": 1, "form": "weights"}}
BIAS = "file.safetensors: conv_in.bias holds something other than finite floating-point numbers"


def onto(change: dict[str, Tensor], fingerprint: str = "f" * 64) -> Prepare:
    """An edit installed into the tiny base's U-Net, which has a fingerprint."""

    def prepare(place: Place) -> Act:
        unet = UNet2DConditionModel.from_pretrained(place.sd / "unet")
        before = state_of(unet)
        edit = WeightEdit(change, RECORD)

        def act() -> None:
            try:
                edit.install(SimpleNamespace(unet=unet), base_fingerprint=fingerprint)
            finally:
                assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())

        return act

    return prepare


CASES = [
    *refusals(
        "an edit",
        {
            "without a record": (WEIGHTS, None, ("file.safetensors: this is no edit",)),
            "record that is no JSON": (WEIGHTS, "{", ("file.safetensors: the record in its header is no JSON",)),
            "record that is no object": (WEIGHTS, [1], ("the record in its header is no JSON object",)),
            "record nested deep": (WEIGHTS, '{"a":' * 500 + "1" + "}" * 500, ("nested more than 64 levels deep",)),
            "record nested deeper": (WEIGHTS, "[" * 100_000, ("the record in its header is no JSON",)),
            "record without a base": (
                WEIGHTS,
                OF_WEIGHTS | {"base": None},
                ("does not say which base the edit was made for",),
            ),
            "record without a format": (WEIGHTS, OF_WEIGHTS | {"edit": {}}, ("its header names no format",)),
            "record with a variant like a path": (
                WEIGHTS,
                OF_WEIGHTS | {"base": BASE | {"variant": "/../../x"}},
                ("the header's variant of the base, '/../../x', is no name",),
            ),
            "record whose settings are a list": (
                WEIGHTS,
                OF_WEIGHTS | {"settings": [1]},
                ("settings are no JSON object",),
            ),
            "NaN": ({"conv_in.bias": torch.full((16,), torch.nan)}, OF_WEIGHTS, (BIAS,)),
            "infinity": ({"conv_in.bias": torch.full((16,), torch.inf).half()}, OF_WEIGHTS, (BIAS,)),
            "NaN in eight bits": (
                {"conv_in.bias": torch.full((16,), torch.nan).to(torch.float8_e4m3fn)},
                OF_WEIGHTS,
                (BIAS,),
            ),
            "whole numbers": ({"conv_in.bias": torch.ones(16, dtype=torch.int64)}, OF_WEIGHTS, (BIAS,)),
            "no tensors": ({}, OF_WEIGHTS, ("the edit changes nothing",)),
        },
        tensors_for(Edit.load),
    ),
    *refusals(
        "an edit applied",
        {
            "for another base": (
                WEIGHTS,
                "e" * 64,
                ("the edit was made for base tiny (ffffffffffff)", "make the edit again"),
            ),
            "to a parameter that is not there": (
                {"up.x.weight": torch.ones(2)},
                ("the base has no parameter up.x.weight",),
            ),
            "to another shape": (
                {"conv_out.bias": torch.ones(9)},
                ("conv_out.bias is [9] in the edit and [4] in the base",),
            ),
        },
        onto,
    ),
]


@each_of(CASES)
def test_a_bad_edit_is_refused_when_it_is_read_or_installed(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
