"""The loop of every method that trains: seeded draws, AdamW or Adam on float32 values, resumed to the same bytes."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

from lethe.finite import mend_of

log = logging.getLogger(__name__)

LARGEST_SCALE, SMALLEST_SCALE = 2.0**16, 2.0**-8  # of the loss in float16
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class Budget:
    """How long and how fast a method trains.

    max_grad_norm: longer gradients are shortened to it; None leaves them.  warm_up: steps in which the learning rate
    grows from 0.  restarts: how often it falls to 0 as a cosine does; 0 keeps it as it is.  mend: the setting that
    lowers the learning rate, for messages.
    """

    steps: int
    learning_rate: float
    optimiser: str = "adamw"
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    warm_up: int = 0
    restarts: int = 0
    mend: str = "lower learning_rate of the method"

    def rate(self, step: int) -> float:
        """What the learning rate is multiplied by at a step, counted from 0."""
        if step < self.warm_up:
            return step / self.warm_up
        if not self.restarts:
            return 1.0
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return 0.5 * (1 + math.cos(math.pi * (done * self.restarts % 1.0)))


def train(
    trained: Mapping[str, nn.Parameter],
    loss_of_step: Callable[[torch.Generator], Tensor],
    budget: Budget,
    *,
    seed: int,
    dtype: torch.dtype,
    name: str,
    checkpoint: Path | None = None,
    every: int = 50,
) -> list[float]:
    """Minimise a loss over parameters, in place; returns the loss of each step.

    Args:
        trained: what changes, float32, by name.
        loss_of_step: the loss of one step, which draws whatever it draws from the generator that it is given.
        seed: of that generator.  dtype: what the network computes in.  name: for messages and the progress bar.
        checkpoint: a safetensors file, written every so many steps, from which a training that was cut off goes on to
            the same bytes; it must be of this very training. It is removed at the end.
    Raises: FloatingPointError, naming the step and what would mend it, when a loss, a gradient or a parameter is not
        finite; ValueError for a checkpoint of other parameters.

    In float16 the loss is scaled so that gradients do not vanish on the way, and a step whose gradients overflow is
    taken again, with the same draws, at half the scale (mixed precision training, arXiv 1710.03740, Sec. 3.2).
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = list(trained.values())
    # `foreach` gives the same bits as a loop over the tensors, which is the default on a CPU, in less time.
    optimiser = OPTIMISERS[budget.optimiser](
        parameters, lr=budget.learning_rate, weight_decay=budget.weight_decay, foreach=True
    )
    run = _Run(trained, optimiser, generator, scale=LARGEST_SCALE if dtype == torch.float16 else 1.0, curve=[])
    if checkpoint is not None and checkpoint.exists():
        run.resume(checkpoint)
        log.info("%s: going on at step %d, from %s", name, len(run.curve), checkpoint)

    def mend(step: int) -> str:
        """Before the first update of the parameters no learning rate can be the cause."""
        return mend_of(dtype) if step == 0 or dtype == torch.float16 else budget.mend

    first = len(run.curve)
    for step in trange(first, budget.steps, desc=name, mininterval=5, initial=first, total=budget.steps):
        for group in optimiser.param_groups:
            group["lr"] = budget.learning_rate * budget.rate(step)
        try:
            run.backward(loss_of_step, smallest=SMALLEST_SCALE if dtype == torch.float16 else run.scale)
        except FloatingPointError as error:
            raise FloatingPointError(f"{name}: {error} at step {step}; {mend(step)}") from None
        if budget.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, budget.max_grad_norm)
        optimiser.step()
        if checkpoint is not None and (step + 1) % every == 0 and step + 1 < budget.steps:
            run.save(checkpoint)
    if not _all_finite(parameters):  # of the last step nobody computes the loss
        raise FloatingPointError(f"{name}: what it trains is not finite after the last step; {mend(budget.steps)}")
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return run.curve


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While the block runs, no gradient reaches these parameters."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are, asked once of them all: each answer would wait for a GPU."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


@dataclass
class _Run:
    """All that a step changes."""

    trained: Mapping[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    scale: float
    curve: list[float]

    def backward(self, loss_of_step: Callable[[torch.Generator], Tensor], *, smallest: float) -> None:
        """Give the parameters their gradients of one step's loss. Raises FloatingPointError where no scale does."""
        drawn = self.generator.get_state()
        while True:
            self.generator.set_state(drawn)
            loss = loss_of_step(self.generator)
            self.optimiser.zero_grad(set_to_none=True)
            (loss * self.scale).backward()
            gradients = [p.grad for p in self.trained.values() if p.grad is not None]
            finite, value = _all_finite(gradients), loss.item()  # behind the backward pass, as a GPU is waited for here
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value}")
            if finite:
                for gradient in gradients:
                    gradient.div_(self.scale)
                self.curve.append(value)
                return
            if self.scale <= smallest:
                raise FloatingPointError("the gradient is not finite")
            self.scale /= 2

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, parameter in self.trained.items():
            tensors[f"parameter/{name}"] = parameter.detach()
            tensors |= {f"{key}/{name}": value for key, value in self.optimiser.state.get(parameter, {}).items()}
        about = {"scale": repr(self.scale), "curve": json.dumps(self.curve)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, part, about)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a crash of the machine may leave the new name and none of its bytes
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Put back what `save` wrote. Raises ValueError when it is not of these parameters."""
        try:
            with safe_open(path, "pt") as file:
                about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            found = {key.removeprefix("parameter/") for key in tensors if key.startswith("parameter/")}
            if found != set(self.trained):
                raise ValueError(f"{path}: this is a checkpoint of another training; delete it")
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(tensors[f"parameter/{name}"])
                    states = {key.split("/")[0]: t for key, t in tensors.items() if key.endswith(f"/{name}")}
                    del states["parameter"]
                    if states:
                        placed = {key: t if key == "step" else t.to(parameter) for key, t in states.items()}
                        self.optimiser.state[parameter] = placed
            self.generator.set_state(tensors["generator"])
            self.scale, self.curve = float(about["scale"]), json.loads(about["curve"])
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: this is no checkpoint of a training ({error}); delete it") from None
