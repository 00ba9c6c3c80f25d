"""How failures of libraries and of the machine are told: one sentence, the mend, and where the traceback is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lethe.steps.failures import explained


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def run_out_of_memory() -> None:
    torch.empty(1 << 50, dtype=torch.float64)


def run_out_of_numpys_memory() -> None:
    np.empty(1 << 58)


def run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ...")


@pytest.mark.parametrize("action", [run_out_of_memory, run_out_of_numpys_memory, run_out_of_gpu_memory])
def test_too_little_memory_names_the_setting_that_takes_less(action) -> None:
    """F21."""
    said = explained(raised(action), less="sampling.batch")
    assert said.startswith("out of memory (")
    assert said.endswith("); lower sampling.batch")
    assert "\n" not in said
    assert len(said) < 250
    assert explained(raised(action)).endswith("); run it where there is more")


@pytest.mark.parametrize(
    "action",
    [
        lambda: nn.Linear(2, 2).half()(torch.ones(1, 2)),
        lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2).half()),
    ],
)
def test_formats_that_do_not_meet_name_the_precision(action) -> None:
    assert explained(raised(action)).endswith("set precision: float32")


def test_what_a_library_says_is_named_and_its_traceback_kept(tmp_path: Path) -> None:
    for number in (1, 2):
        error = raised(lambda: nn.Conv2d(4, 2, 3)(torch.ones(1, 9, 8, 8)))
        said = explained(error, folder=tmp_path / "tracebacks")
        kept = tmp_path / "tracebacks" / f"{number:04d}.txt"
        assert said.startswith("torch failed with RuntimeError: ")
        assert said.endswith(f"(the traceback is in {kept})")
        assert "\n" not in said
        assert "Traceback (most recent call last)" in kept.read_text()
        assert "in forward" in kept.read_text()


def test_a_fault_of_lethe_is_called_so() -> None:
    from lethe.edits.edit import Edit

    assert re.match("Lethe failed with (TypeError|AttributeError): ", explained(raised(lambda: Edit.load(3.5))))


def test_where_no_traceback_can_be_kept_the_sentence_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = explained(raised(lambda: {}["x"]), folder=tmp_path / "file")
    assert said == "Python failed with KeyError: 'x'"


@pytest.mark.parametrize("error", [ValueError("the key a: wrong"), json.JSONDecodeError("x", "y", 0)])
def test_what_lethe_says_stays_as_it_is(error: Exception) -> None:
    assert explained(error) == str(error)
    assert explained(FileNotFoundError(2, "No such file", "a.txt")) == "a.txt: No such file"
