"""Headers of safetensors files, and tensors in them, changed: all else stays byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lethe.files.headers import HASH, NO_HASH, copy_described, header_of, replace_tensors, seal


def test_a_copy_says_more_and_holds_the_same(tmp_path: Path) -> None:
    saved = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3), "c": torch.ones(0)}
    save_file(saved, tmp_path / "x", {"z": "1", "k": "old"})
    copy_described(tmp_path / "x", tmp_path / "y", {"k": 'Ü "new"', "b": "2"})
    with safe_open(tmp_path / "y", "pt") as file:
        assert file.metadata() == {"z": "1", "k": 'Ü "new"', "b": "2"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in saved.items())
    (start, old), (begin, new) = header_of(tmp_path / "x"), header_of(tmp_path / "y")
    assert list(new["__metadata__"]) == ["b", "k", "z"]
    assert begin % 8 == 0
    assert (tmp_path / "x").read_bytes()[start:] == (tmp_path / "y").read_bytes()[begin:]
    assert {**old, "__metadata__": 0} == {**new, "__metadata__": 0}


def test_tensors_are_replaced_where_they_lie_and_the_rest_stays(tmp_path: Path) -> None:
    saved = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4).half(), "c": torch.arange(5.0)}
    save_file(saved, tmp_path / "x")
    new = {"b": -saved["b"], "a": torch.arange(6.0).reshape(3, 2).mT}  # the last is not contiguous
    replace_tensors(tmp_path / "x", new.items())
    with safe_open(tmp_path / "x", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in (saved | new).items())
    with pytest.raises(ValueError, match="x: b has 8 bytes; got 16 to put in their place"):
        replace_tensors(tmp_path / "x", [("b", torch.ones(4))])


def test_the_hash_of_a_sealed_file_is_that_of_all_behind_its_header(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0)}, tmp_path / "x")
    copy_described(tmp_path / "x", tmp_path / "y", {HASH: NO_HASH})
    before = header_of(tmp_path / "y")[0]
    seal(tmp_path / "y")
    start, header = header_of(tmp_path / "y")
    content = torch.arange(6.0).numpy().tobytes()
    assert header["__metadata__"] == {HASH: f"0x{hashlib.sha256(content).hexdigest()}"}
    assert (tmp_path / "y").read_bytes()[start:] == content
    assert start == before
