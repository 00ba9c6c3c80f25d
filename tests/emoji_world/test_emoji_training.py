"""The training loop: what it minimises, that it resumes to the byte, and where it stops."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emoji_world.training import finish, load_averages, train
from running import ROOT


class LostMachineError(Exception):
    """Stands for a lost machine."""


class Net(nn.Module):
    """Convolutions, running statistics, a dropout and a parameter that no loss reads."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 3)
            self.dropout, self.unused = nn.Dropout(0.2), nn.Parameter(torch.randn(2))
            self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(self.norm(self.first(x)).tanh()))


def pictures(rng: np.random.Generator) -> tuple[Tensor]:
    """A batch."""
    return (torch.from_numpy(rng.normal(size=(2, 3, 6, 6))).float(),)


def nothing(_: np.random.Generator) -> tuple[()]:
    """A batch of which the loss reads nothing."""
    return ()


def loss_of(net: Net, stop: int | None = None, seen: list | None = None) -> Callable[[Tensor], Tensor]:
    steps = iter(range(10**6))

    def loss(x: Tensor) -> Tensor:
        if next(steps) == stop:
            raise LostMachineError
        if seen is not None:
            seen.append(x)
        target = x[:, :2, 2:4, 2:4] + 0.01 * torch.randn(2, 2, 2, 2)
        return (net(x) - target).square().mean()

    return loss


OPTIONS = dict(steps=240, learning_rate=3e-3, seed=5, checkpoint_every=100)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("stop", [150, 239])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, stop: int, layout: torch.memory_format) -> None:
    whole, broken, resumed = (Net(seed).to(memory_format=layout) for seed in (1, 1, 2))
    curve = train({"net": whole}, pictures, loss_of(whole), checkpoint=tmp_path / "a", **OPTIONS)
    with pytest.raises(LostMachineError):
        train({"net": broken}, pictures, loss_of(broken, stop), checkpoint=tmp_path / "b" / "c.ckpt", **OPTIONS)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["c.ckpt"]
    torch.manual_seed(999)
    again = train({"net": resumed}, pictures, loss_of(resumed), checkpoint=tmp_path / "b" / "c.ckpt", **OPTIONS)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert again == curve
    assert [step for step, _ in curve] == [100, 200]


def test_training_twice_is_the_same_and_another_seed_is_not(tmp_path: Path) -> None:
    runs = []
    for k, seed in enumerate((5, 5, 6)):
        net = Net(1)
        train(
            {"net": net}, pictures, loss_of(net), checkpoint=tmp_path / str(k), **(OPTIONS | dict(steps=20, seed=seed))
        )
        runs.append(net.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["first.weight"], runs[2]["first.weight"])


def test_batches_are_drawn_from_seed_and_step(tmp_path: Path) -> None:
    net, seen = Net(1), []
    train({"net": net}, pictures, loss_of(net, seen=seen), checkpoint=tmp_path / "c", **(OPTIONS | dict(steps=3)))
    for step, x in enumerate(seen):
        want = np.random.default_rng([5, step]).normal(size=(2, 3, 6, 6))
        assert torch.equal(x, torch.from_numpy(want).float())


def test_the_loss_falls_and_modules_end_in_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = Net(1)
    unused = net.unused.detach().clone()
    with caplog.at_level(logging.INFO):
        curve = train({"net": net}, pictures, loss_of(net), checkpoint=tmp_path / "c", **(OPTIONS | dict(steps=600)))
    assert curve[-1][1] < 0.8 * curve[0][1]
    assert not net.training
    assert not net.dropout.training
    assert torch.equal(net.unused, unused)
    assert "step 600 of 600" in caplog.text


def test_what_is_left_is_the_running_mean_of_the_weights(tmp_path: Path) -> None:
    # One number pulled towards 3: replay AdamW, the one-cycle rate and the running mean by hand.
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.5)
    steps, rate, decay = 12, 0.1, 0.7
    train(
        {"m": module},
        nothing,
        lambda: (module.weight - 3).square().sum() / 100,  # gradients below 1, so that none is cut
        checkpoint=tmp_path / "c",
        **dict(steps=steps, learning_rate=rate, seed=1, ema_decay=decay),
    )
    weight = mean = 0.5
    first = second = 0.0
    for k in range(steps):
        lr = rate if k == 0 else rate * 0.5 * (1 + math.cos(math.pi * (k - 1) / (steps - 1)))
        gradient = (weight - 3) / 50
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight *= 1 - lr * 1e-4
        weight -= lr * (first / (1 - 0.9 ** (k + 1))) / (math.sqrt(second / (1 - 0.999 ** (k + 1))) + 1e-8)
        keep = min(decay, (k + 1) / (k + 10))
        mean = keep * mean + (1 - keep) * weight
    assert module.weight.item() == pytest.approx(mean, rel=1e-5)
    assert mean > 0.6


def test_a_loss_that_is_not_finite_names_the_step(tmp_path: Path) -> None:
    net, count = Net(1), iter(range(100))

    def loss() -> Tensor:
        return net(torch.zeros(1, 3, 6, 6)).sum() * (math.inf if next(count) == 7 else 1)

    with pytest.raises(FloatingPointError, match=r"the loss is -?(inf|nan) at step 7; lower the learning rate"):
        train({"net": net}, nothing, loss, checkpoint=tmp_path / "c", **OPTIONS)


def test_a_checkpoint_holds_tensors_only(tmp_path: Path) -> None:
    net = Net(1)
    train(
        {"net": net}, pictures, loss_of(net), checkpoint=tmp_path / "c", **(OPTIONS | dict(steps=3, checkpoint_every=2))
    )
    names = set(load_file(tmp_path / "c"))
    assert {"parameter/net.first.weight", "ema/net.first.weight", "exp_avg/net.first.weight"} <= names


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(steps=300), "with steps 240, and now it is 300"),
        (dict(learning_rate=1e-3), "with learning_rate 0.003, and now it is 0.001"),
        (dict(seed=6), "with seed 5, and now it is 6"),
    ],
    ids=["steps", "learning_rate", "seed"],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict, told: str) -> None:
    net = Net(1)
    with pytest.raises(LostMachineError):
        train({"net": net}, pictures, loss_of(net, 120), checkpoint=tmp_path / "c", **OPTIONS)
    with pytest.raises(ValueError, match=f"c: this checkpoint is of a training {told}; delete it to begin anew"):
        train({"net": net}, pictures, loss_of(net), checkpoint=tmp_path / "c", **(OPTIONS | change))


def test_a_checkpoint_that_does_not_say_of_what_training_it_is_counts(tmp_path: Path) -> None:
    net, again = Net(1), Net(2)
    with pytest.raises(LostMachineError):
        train({"net": net}, pictures, loss_of(net, 120), checkpoint=tmp_path / "c", **OPTIONS)
    with safe_open(tmp_path / "c", "pt") as file:
        header = file.metadata()
    assert header.keys() == {"step", "curve", "steps", "learning_rate", "seed"}
    save_file(load_file(tmp_path / "c"), tmp_path / "c", {key: header[key] for key in ("step", "curve")})
    curve = train({"net": again}, pictures, loss_of(again), checkpoint=tmp_path / "c", **OPTIONS)
    assert [step for step, _ in curve] == [100, 200]


def test_a_finished_training_leaves_its_curve_and_no_checkpoint(tmp_path: Path) -> None:
    net = Net(1)
    curve = train({"net": net}, pictures, loss_of(net), checkpoint=tmp_path / "c", **OPTIONS)
    (tmp_path / "model").mkdir()
    for _ in range(2):  # a checkpoint that is not there is none to mind
        finish(tmp_path / "model", curve, tmp_path / "c")
        assert not (tmp_path / "c").exists()
    assert [tuple(point) for point in json.loads((tmp_path / "model" / "curve.json").read_text())] == curve


def test_frozen_parameters_stay_and_are_not_kept(tmp_path: Path) -> None:
    net = Net(1)
    net.first.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(
        {"net": net}, pictures, loss_of(net), checkpoint=tmp_path / "c", **(OPTIONS | dict(steps=3, checkpoint_every=2))
    )
    assert torch.equal(net.first.weight, before["first.weight"])
    assert not torch.equal(net.second.weight, before["second.weight"])
    assert not any("first" in name for name in load_file(tmp_path / "c"))


def test_several_modules_train_together(tmp_path: Path) -> None:
    one, two = Net(1), nn.Conv2d(2, 2, 1)
    before = [one.first.weight.detach().clone(), two.weight.detach().clone()]

    def loss(x: Tensor) -> Tensor:
        return two(one(x)).square().mean()

    train({"one": one, "two": two}, pictures, loss, checkpoint=tmp_path / "c", **(OPTIONS | dict(steps=5)))
    assert not torch.equal(one.first.weight, before[0])
    assert not torch.equal(two.weight, before[1])


def test_a_module_can_learn_at_a_share_of_the_rate(tmp_path: Path) -> None:
    # AdamW's first step is as long as the learning rate, whatever the gradient.
    fast, slow = (nn.Linear(3, 1, bias=False) for _ in range(2))
    before = [module.weight.detach().clone() for module in (fast, slow)]

    def draw(rng: np.random.Generator) -> tuple[Tensor]:
        return (torch.from_numpy(rng.normal(size=(4, 3))).float(),)

    def loss(x: Tensor) -> Tensor:
        return (fast(x) + 3 * slow(x)).square().mean() * 1e-2

    options = OPTIONS | dict(steps=1, ema_decay=0.0)
    train({"fast": fast, "slow": slow}, draw, loss, checkpoint=tmp_path / "c", rates={"slow": 0.1}, **options)
    steps = [(module.weight - old).abs().mean().item() for module, old in zip((fast, slow), before, strict=True)]
    assert steps[1] == pytest.approx(0.1 * steps[0], rel=0.01)
    assert steps[0] == pytest.approx(OPTIONS["learning_rate"], rel=0.01)


def test_two_rates_resume_to_the_byte_as_well(tmp_path: Path) -> None:
    def run(checkpoint: Path, stop: int | None = None) -> Net:
        net, other = Net(1), Net(2)
        inner = loss_of(net, stop)
        train(
            {"net": net, "other": other},
            pictures,
            lambda x: inner(x) + (other(torch.ones(1, 3, 6, 6)) - 1).square().mean(),
            checkpoint=checkpoint,
            rates={"other": 0.1},
            **OPTIONS,
        )
        return other

    whole = run(tmp_path / "a")
    with pytest.raises(LostMachineError):
        run(tmp_path / "b", stop=150)
    again = run(tmp_path / "b")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from emoji_world.training import train
folder = Path(sys.argv[1])
torch.set_num_threads(1)

def run(name, stop):
    '''Train in a process of its own that is killed at a batch; return its exit code.'''
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 300), nn.Dropout(0.1), nn.Linear(300, 1))
    count = 0

    def draw(rng):
        return (torch.from_numpy(rng.normal(size=(2, 300))).float(),)

    def loss(x):
        nonlocal count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return net(x).square().mean()

    options = dict(steps=60, learning_rate=1e-3, seed=3, checkpoint_every=10)
    train({"net": net}, draw, loss, checkpoint=folder / f"{name}.ckpt", **options)
    (folder / name).write_bytes(b"".join(p.detach().numpy().tobytes() for p in net.parameters()))
    os._exit(0)

print(*(run(*one) for one in (("whole", 0), ("killed", 37), ("killed", 15), ("killed", 0))))
"""


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["0", str(-signal.SIGKILL), str(-signal.SIGKILL), "0"], run.stderr
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "killed").read_bytes()


def test_averages_can_be_looked_at_while_training_runs(tmp_path: Path) -> None:
    net, again = Net(1), Net(2)
    with pytest.raises(LostMachineError):
        train({"net": net}, pictures, loss_of(net, 120), checkpoint=tmp_path / "c", **OPTIONS)
    assert load_averages(tmp_path / "c", {"net": again}) == 100
    saved = load_file(tmp_path / "c")
    assert torch.equal(again.first.weight, saved["ema/net.first.weight"])
    assert not torch.equal(again.first.weight, saved["parameter/net.first.weight"])
    assert not again.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_replayed_on_a_gpu_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Rate, clipped gradient, AdamW, running statistics and mean weights of every step, resumed halfway."""
    here, there = (Net(1).to(device) for device in ("cpu", "cuda"))
    for net in (here, there):
        net.dropout.p = 0.0
        net.first.bias.requires_grad_(
            False
        )  # before a batch norm its gradient is rounding, which Adam makes as long as any

    def loss_on(net: Net, stop: int | None = None) -> Callable[[Tensor], Tensor]:
        steps = iter(range(10**6))

        def loss(x: Tensor) -> Tensor:
            if next(steps) == stop:
                raise LostMachineError
            return (net(x) - x[:, :2, 2:4, 2:4]).square().mean()

        return loss

    options = OPTIONS | dict(steps=60, checkpoint_every=2)
    train({"net": here}, pictures, loss_on(here), checkpoint=tmp_path / "a", **options)
    with pytest.raises(LostMachineError):
        train({"net": there}, pictures, loss_on(there, 2), checkpoint=tmp_path / "b", **options)
    train({"net": there}, pictures, loss_on(there), checkpoint=tmp_path / "b", **options)
    for name, tensor in here.state_dict().items():
        assert torch.allclose(tensor, there.state_dict()[name].cpu(), atol=2e-3), name
