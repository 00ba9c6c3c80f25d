"""The training loop: the optimiser's formula, its schedule, what goes on after a kill, what is no number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup

from lethe.erasure.training import Budget, train
from running import ROOT

HERE = torch.device("cpu")


def start() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.tensor([1.0, -2.0, 0.5])), "b.weight": nn.Parameter(torch.tensor([[0.3], [4.0]]))}


def loss_of(parameters: dict[str, nn.Parameter]) -> Callable[[torch.Generator], Tensor]:
    """A loss with a drawn target, so that what was drawn shows."""

    def loss(generator: torch.Generator) -> Tensor:
        target = torch.randn(3, generator=generator)
        return (parameters["a"] - target).square().sum() + parameters["b.weight"].pow(4).sum()

    return loss


def trained(budget: Budget, **more: object) -> tuple[dict[str, Tensor], list[float]]:
    parameters = start()
    curve = train(parameters, loss_of(parameters), budget, seed=3, dtype=torch.float32, name="test", **more)
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}, curve


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("norm", [None, 0.7])
def test_steps_are_those_of_the_formula(optimiser: str, norm: float | None) -> None:
    """Adam (arXiv 1412.6980, Alg. 1) and AdamW (1711.05101, Alg. 2) in float64, with gradients written by hand."""
    decay = 0.1 if optimiser == "adamw" else 0.0
    found, curve = trained(Budget(25, 0.05, optimiser, decay, norm))
    a, b = (value.detach().double() for value in start().values())
    moments = [torch.zeros_like(a), torch.zeros_like(b)], [torch.zeros_like(a), torch.zeros_like(b)]
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 26):
        target = torch.randn(3, generator=generator).double()
        assert curve[step - 1] == pytest.approx(float(((a - target) ** 2).sum() + (b**4).sum()), rel=1e-5)
        gradients = [2 * (a - target), 4 * b**3]
        length = float(sum((g**2).sum() for g in gradients) ** 0.5)
        shrink = 1.0 if norm is None else min(1.0, norm / (length + 1e-6))
        for k, value in enumerate((a, b)):
            gradient = gradients[k] * shrink
            moments[0][k] = 0.9 * moments[0][k] + 0.1 * gradient
            moments[1][k] = 0.999 * moments[1][k] + 0.001 * gradient**2
            first, second = moments[0][k] / (1 - 0.9**step), moments[1][k] / (1 - 0.999**step)
            value *= 1 - 0.05 * decay
            value -= 0.05 * first / (second.sqrt() + 1e-8)
    assert torch.allclose(found["a"].double(), a, atol=1e-5)
    assert torch.allclose(found["b.weight"].double(), b, atol=1e-5)


@pytest.mark.parametrize(("warm_up", "restarts"), [(0, 1), (20, 3), (500, 3)])
def test_the_schedule_is_that_of_transformers(warm_up: int, restarts: int) -> None:
    budget = Budget(600, 0.2, warm_up=warm_up, restarts=restarts)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = get_cosine_with_hard_restarts_schedule_with_warmup(optimiser, warm_up, 600, num_cycles=restarts)
    for step in range(600):
        assert 0.2 * budget.rate(step) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_without_restarts_the_rate_stays_after_warming_up() -> None:
    assert [Budget(5, 1.0, warm_up=2).rate(step) for step in range(5)] == [0.0, 0.5, 1.0, 1.0, 1.0]


CHILD = """
import sys, time, torch
sys.path[:0] = {paths!r}
from pathlib import Path
from test_training import loss_of, start
from lethe.erasure.training import Budget, train
parameters = start()
loss = loss_of(parameters)
def slow(generator):
    time.sleep(0.02)
    return loss(generator)
path = Path(sys.argv[1])
train(parameters, slow, Budget(200, 0.05), seed=3, dtype=torch.float32, name="test", checkpoint=path, every=7)
"""


def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "of" / "checkpoint.safetensors"
    paths = [str(ROOT / "workflow"), str(ROOT / "tests"), str(ROOT / "tests" / "erasure")]
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(paths=paths), str(path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert path.exists()
    whole, curve = trained(Budget(200, 0.05))
    resumed, again = trained(Budget(200, 0.05), checkpoint=path, every=7)
    assert curve == again
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not path.exists()


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    whole, curve = trained(Budget(20, 0.05))
    saved, again = trained(Budget(20, 0.05), checkpoint=tmp_path / "c.safetensors", every=3)
    assert curve == again
    assert all(torch.equal(whole[name], saved[name]) for name in whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["of others", "no safetensors"])
def test_another_checkpoint_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.safetensors"
    if content == "of others":
        parameters = {"other": nn.Parameter(torch.ones(2))}

        def loss(generator: torch.Generator) -> Tensor:
            if path.exists():
                raise KeyboardInterrupt
            return parameters["other"].sum()

        with pytest.raises(KeyboardInterrupt):
            train(parameters, loss, Budget(9, 0.1), seed=1, dtype=torch.float32, name="x", checkpoint=path, every=2)
    else:
        path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=rf"{path}: this is .*delete it"):
        trained(Budget(9, 0.1), checkpoint=path)


@pytest.mark.parametrize(
    ("at", "dtype", "said"),
    [
        (0, torch.float32, "test: the loss is nan at step 0; float32 has room enough"),
        (2, torch.float32, "test: the loss is nan at step 2; lower rate"),
        (2, torch.float16, "test: the loss is nan at step 2; float16 ends at 65504"),
    ],
)
def test_a_loss_that_is_no_number_is_said(at: int, dtype: torch.dtype, said: str) -> None:
    parameters, calls = start(), []

    def loss(generator: torch.Generator) -> Tensor:
        calls.append(1)
        return parameters["a"].sum() * (float("nan") if len(calls) > at else 1e-3)

    with pytest.raises(FloatingPointError) as caught:
        train(parameters, loss, Budget(9, 0.1, mend="lower rate"), seed=1, dtype=dtype, name="test")
    assert said in str(caught.value)


def test_what_the_last_step_spoils_is_said() -> None:
    parameters = {"a": nn.Parameter(torch.tensor([3.4e38]))}

    def loss(generator: torch.Generator) -> Tensor:
        return -1.0 * parameters["a"].sum() * 1e-3

    with pytest.raises(FloatingPointError, match="what it trains is not finite after the last step; lower"):
        train(parameters, loss, Budget(1, 1e37, "adam", 0.0), seed=1, dtype=torch.float32, name="test")


def test_a_step_whose_gradient_overflows_in_float16_is_taken_again_with_its_draws() -> None:
    parameters, drawn = {"a": nn.Parameter(torch.ones(3))}, []

    def loss(generator: torch.Generator) -> Tensor:
        drawn.append(torch.randn(1, generator=generator).item())
        return (parameters["a"].half() * 3).sum().float()  # times 2^16, the gradient of the product overflows

    curve = train(parameters, loss, Budget(2, 0.1), seed=1, dtype=torch.float16, name="test")
    assert len(drawn) > len(curve) == 2
    assert len(set(drawn)) == 2
