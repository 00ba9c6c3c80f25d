"""Safetensors files: what was saved comes back, and what holds anything but finite numbers is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bad_input import PICKLE, Case, Place, each_of, file_for, refusals
from lethe.edits.adapters import load_lora
from lethe.edits.edit import Edit
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.tensors import DEPTH, as_header, open_tensors, read_tensors, write_tensors

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_finite_tensors_of_any_format_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = {"a": torch.tensor([[1.5, -2.0]]).to(dtype), "b": torch.zeros(0, dtype=dtype)}
    save_file(saved, tmp_path / "x", {"lethe": json.dumps({"k": [1]})})
    tensors, record = read_tensors(tmp_path / "x")
    assert record == {"k": [1]}
    assert tensors.keys() == saved.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor.float(), saved[name].float())


def test_numbers_near_the_end_of_a_range_are_finite(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)}, tmp_path / "x")
    assert read_tensors(tmp_path / "x")[1] == {}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_single_nan_is_found(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.ones(50)
    tensor[37] = torch.nan
    save_file({"a": torch.ones(2), "b": tensor.to(dtype)}, tmp_path / "x")
    with pytest.raises(ValueError, match="x: b holds something other than finite floating-point numbers"):
        read_tensors(tmp_path / "x")


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_a_record_may_be_nested_so_far_and_no_further(tmp_path: Path) -> None:
    for levels in (DEPTH, DEPTH + 1):
        save_file({"a": torch.ones(1)}, tmp_path / str(levels), {"lethe": nested(levels)})
    assert read_tensors(tmp_path / str(DEPTH))[1] == json.loads(nested(DEPTH))
    with pytest.raises(ValueError, match=f"nested more than {DEPTH} levels deep"):
        read_tensors(tmp_path / str(DEPTH + 1))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x: there is no such safetensors file"), open_tensors(tmp_path / "x"):
        pass


def test_a_record_in_a_header_is_one_sorted_json_text(tmp_path: Path) -> None:
    record = {"b": {"d": [1, None], "c": "ü"}, "a": 1.5}
    header = as_header(record)
    assert list(header) == ["lethe"]
    assert header == as_header(dict(reversed(record.items())))
    save_file({"w": torch.zeros(1)}, tmp_path / "f.safetensors", header)
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        assert json.loads(file.metadata()["lethe"]) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.float8_e5m2])
def test_what_is_not_finite_is_never_written(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensors = {"fine": torch.ones(2), "broken": torch.tensor([1.0, value]).to(dtype)}
    with pytest.raises(ValueError, match="new/f.safetensors: broken holds something other than finite floating-point"):
        write_tensors(tmp_path / "new" / "f.safetensors", tensors, {})
    assert not (tmp_path / "new").exists()


def test_equal_tensors_and_records_give_equal_bytes(tmp_path: Path) -> None:
    tensors, record = {"b": torch.ones(2, 3).mT, "a": torch.zeros(1)}, {"x": 1, "y": 2}
    write_tensors(tmp_path / "one", tensors, record)
    write_tensors(tmp_path / "two", dict(reversed(tensors.items())), dict(reversed(record.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read, told = read_tensors(tmp_path / "one")
    assert told == record
    assert torch.equal(read["b"], tensors["b"])


# Bad input


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, which may say it is `length` bytes long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(*offsets: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


NO_FILE = ("file.safetensors: this is no safetensors file, or only a part of one",)
LIES = {
    "pickle": (PICKLE, NO_FILE),
    "empty": (b"", NO_FILE),
    "header longer than the file": (raw({"a": tensor(0, 4)}, bytes(4), 1 << 40), NO_FILE),
    "header of 2^64 bytes": (raw({"a": tensor(0, 4)}, bytes(4), (1 << 64) - 1), NO_FILE),
    "header that is no object": (raw([1, 2]), NO_FILE),
    "header that is no JSON": (raw(b"{]"), NO_FILE),
    "offsets past the end": (raw({"a": tensor(0, 400, shape=(100,))}, bytes(4)), NO_FILE),
    "offsets that overlap": (raw({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), NO_FILE),
    "offsets backwards": (raw({"a": tensor(4, 0)}, bytes(4)), NO_FILE),
    "shape larger than its bytes": (raw({"a": tensor(0, 4, shape=(1 << 40, 1 << 40))}, bytes(4)), NO_FILE),
    "unknown number format": (raw({"a": tensor(0, 4, dtype="PICKLE")}, bytes(4)), NO_FILE),
}
SOME = {name: LIES[name] for name in ("pickle", "header longer than the file")}
CASES = [
    *refusals("an edit", LIES, file_for(Edit.load, "file.safetensors")),
    *refusals("a LoRA", SOME, file_for(load_lora, "file.safetensors")),
    *refusals("a prior", SOME, file_for(load_moment, "file.safetensors")),
    *refusals("moments", SOME, file_for(load_concept_moments, "file.safetensors")),
]


@each_of(CASES)
def test_what_is_no_safetensors_file_is_refused_by_whatever_reads_it(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
