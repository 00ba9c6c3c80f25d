"""Every benchmark runs with one command from the repository root and ends with a JSON object; its sides agree."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from running import ROOT

MACHINE = {"processor", "cores", "torch", "python", "date"}


def run(name: str, *options: str) -> dict:
    """The last line of a benchmark, in its tiny mode."""
    command = [sys.executable, f"benchmarks/{name}.py", "--tiny", "--rounds", "1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["machine"].keys() == MACHINE
    assert result["options"]["tiny"] is True
    return result


@pytest.mark.parametrize(("layers", "measured"), [((), "2 of 6"), (("--all-layers",), "6 of 6")])
def test_closed_form(layers: tuple[str, ...], measured: str) -> None:
    result = run("closed_form", *layers)
    assert result["published_projections_measured"] == measured
    for concepts in (5, 50):
        assert 0 < result[f"difference_{concepts}"] < 1e-5  # float32 against float64
        sides = ("ours", "by_position", "by_prompt")
        ours, position, prompt = (result["seconds"][f"{side}_{concepts}"] for side in sides)
        assert result[f"ratio_{concepts}"] == pytest.approx(position["cpu"] / ours["cpu"], rel=1e-2)
        assert result[f"ratio_{concepts}_by_prompt"] == pytest.approx(prompt["cpu"] / ours["cpu"], rel=1e-2)


def test_both_sums_of_the_published_side_agree(monkeypatch: pytest.MonkeyPatch, drawn: Callable[..., Tensor]) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    published = importlib.import_module("published")
    values, keys = drawn(3, 9, 5), drawn(3, 9, 4, seed=1)
    whole = sum(torch.outer(values[prompt, place], keys[prompt, place]) for prompt in range(3) for place in range(9))
    assert torch.allclose(published.by_position(values, keys), whole, rtol=1e-12)
    assert torch.allclose(published.by_prompt(values, keys), whole, rtol=1e-12)


def test_closed_form_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method and MACE's join in processes of their own, as all are; the others in this one."""
    result = run("closed_form_methods", "--sides", "oce", "mace")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    methods = importlib.import_module("closed_form_methods")
    size = dict(tiny=True, layers=1, concepts=5, preserve=5, retain=5)
    for side in set(methods.SIDES) - result.keys():
        result[side] = methods.encoded("tiny", argparse.Namespace(side=side, **size))
    # each of 5 concepts and its guide, 5 names, and under 2023 the empty prompt; RECE makes them twice; SPEED's
    # invariants are the empty prompt; OCE has one guide for all; 30 prompts with the phrase and 30 with its anchor
    prompts = {"uce": 16, "rece": 32, "speed": 16, "oce": 11, "mace": 0, "mace_moments": 60}
    for side, read in prompts.items():
        taken = result[side]
        assert taken["prompts"] == read
        assert (taken["text"] > 0) == (read > 0)
        assert taken["solve"] > 0
        assert taken["peak_mib"] >= taken["before_mib"] > 0


def test_scale() -> None:
    result = run("scale", "--concepts", "10", "40")
    assert {"memory_growth", "time_exponent", "seconds_per_concept"} <= result.keys()
    few, many = (result["joins"][n]["peak_mib"] for n in ("10", "40"))
    assert result["memory_growth"] == pytest.approx(many / few - 1, abs=1e-2)


def test_shards() -> None:
    result = run("shards")
    assert result["by_size"] == result["by_batch"]  # one shard, so one process
    assert 0 < result["loading"] < 2 * result["by_size"]["2"]
    assert result["times"] == 1
    assert result["peak_mib"].keys() == {"2 by 2"}


def test_prior() -> None:
    result = run("prior")
    assert {"over_text_encoder", "ratio_published"} <= result.keys()
    assert 0 < result["difference"] < 1e-5  # float32 against float64


def test_lora() -> None:
    result = run("lora")
    assert {"over_forward_backward", "over_forward_backward_adamw"} <= result.keys()
    assert set(result["trained_tensors"].values()) == {28}  # each side trains a pair for each of 14 projections


def test_gpu_on_a_cpu() -> None:
    result = run("gpu", "--small", "--device", "cpu")
    assert result["same_images"] is True
    assert result["gpu"] is None
    made = dict(sampling=2, lora=2, prior=8, join=3)
    for name, n in made.items():
        ours, other = result[name]["seconds"].values()
        assert result[name]["ratio"] == pytest.approx(ours / other, rel=1e-2)
        assert [*result[name]["rate"].values()] == pytest.approx([n / ours, n / other], rel=1e-2)


def test_every_benchmark_names_its_command() -> None:
    found = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert len(found) >= 4
    for path in found:
        assert f"\n    python benchmarks/{path.name}" in path.read_text()
