"""The training loop shared by the emoji world's models: seeded batches, one-cycle AdamW, EMA, resumable checkpoints."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lethe.files.whole import written_whole

log = logging.getLogger(__name__)


def train(
    modules: dict[str, nn.Module],
    draw: Callable[[np.random.Generator], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    checkpoint: Path,
    ema_decay: float = 0.999,
    checkpoint_every: int | None = None,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> list[tuple[int, float]]:
    """Minimise `loss(*draw(rng))` over the trainable parameters of `modules`; leave the EMA weights in them.

    Step k draws its batch, tensors on the CPU of the same shapes for every step, with `default_rng([seed, k])`, so a
    run resumed from `checkpoint` (safetensors, written every `checkpoint_every` steps, 100 or on a GPU 1,000) continues
    exactly where it stopped. Learning rate: linear warm-up over 3 % of the steps, cosine to zero; `rates` multiplies it
    for the modules that it names. Returns (step, mean loss since the last point) every 100 steps.

    On a GPU as many processes draw batches as torch has threads, matrix products are in TF32, and from the fourth on a
    step is the replay of one graph, since a small model's kernels take less time than their launches; so `loss` must
    not look at values. Weights then repeat to rounding, not to the byte.
    Raises FloatingPointError, naming the step (on a GPU the hundred of steps), when the loss is not finite; ValueError
    when the checkpoint says that it is of a training with other steps, another rate or seed.
    """
    about = {"steps": str(steps), "learning_rate": str(learning_rate), "seed": str(seed)}
    parameters = {
        f"{name}.{key}": p for name, m in modules.items() for key, p in m.named_parameters() if p.requires_grad
    }
    buffers = {f"{name}.{key}": buffer for name, m in modules.items() for key, buffer in m.named_buffers()}
    device = next(iter(parameters.values())).device
    on_gpu = device.type == "cuda"
    checkpoint_every = checkpoint_every or (1000 if on_gpu else 100)
    groups = [
        {
            "params": [p for p in module.parameters() if p.requires_grad],
            "lr": torch.zeros((), device=device) if on_gpu else 0.0,  # a graph reads its rate from memory
            "rate": rates.get(name, 1.0),
        }
        for name, module in modules.items()
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4, fused=True, capturable=on_gpu)
    ema = {name: p.detach().clone() for name, p in parameters.items()}
    curve: list[tuple[int, float]] = []
    first = _resume(checkpoint, about, parameters, buffers, ema, optimiser, curve) if checkpoint.exists() else 0
    recent, started = [], time.monotonic()
    for module in modules.values():
        module.train()

    def update(*batch: Tensor) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        value = loss(*batch)
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        return value.detach()

    advance = _Replayed(update, device) if on_gpu else update
    batches = DataLoader(
        _Batches(draw, seed, first, steps),
        batch_size=None,
        num_workers=torch.get_num_threads() if on_gpu else 0,
        pin_memory=on_gpu,
    )
    with _tf32() if on_gpu else nullcontext():
        for step, batch in enumerate(batches, first):
            for group in optimiser.param_groups:
                rate = learning_rate * group["rate"] * _one_cycle(step, steps)
                group["lr"] = group["lr"].fill_(rate) if on_gpu else rate
            torch.manual_seed(seed * 1_000_003 + step)  # for what the modules themselves draw: dropout
            recent.append(advance(*batch))
            weight = min(ema_decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.values()), [p.detach() for p in parameters.values()], 1 - weight)
            whole = (step + 1) % 100 == 0
            if whole or not on_gpu or step + 1 == steps:  # reading a value makes a GPU wait
                _require_finite(recent, step)
            if whole:
                curve.append((step + 1, torch.stack(recent).double().mean().item()))
                pace = (time.monotonic() - started) / (step + 1 - first)
                log.info("step %d of %d, loss %.4f, %.3f s a step", step + 1, steps, curve[-1][1], pace)
                recent = []
            if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                _save(checkpoint, about | {"step": str(step + 1)}, parameters, buffers, ema, optimiser, curve)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(ema[name])
    for module in modules.values():
        module.eval()
    return curve


class _Batches(Dataset):
    """The batches of the steps from `first` on, each from its own generator, whoever draws it."""

    def __init__(self, draw: Callable[[np.random.Generator], tuple[Tensor, ...]], seed: int, first: int, steps: int):
        self.draw, self.seed, self.first, self.steps = draw, seed, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        return self.draw(np.random.default_rng([self.seed, self.first + number]))


class _Replayed:
    """A function of tensors that is recorded on the GPU after three calls and replayed from then on."""

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.function, self.device, self.calls = function, device, 0
        self.stream, self.graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()

    def __call__(self, *batch: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= 3:  # recording asks for a few calls on a stream of their own before
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                value = self.function(*(tensor.to(self.device) for tensor in batch))
            torch.cuda.current_stream().wait_stream(self.stream)
            return value
        if self.calls == 4:
            self.batch = [tensor.to(self.device) for tensor in batch]
            # Threads of the loader pin memory meanwhile: no part of what is recorded.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.value = self.function(*self.batch)
        for ours, given in zip(self.batch, batch, strict=True):
            ours.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.value.clone()


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _require_finite(losses: list[Tensor], step: int) -> None:
    values = torch.stack(losses).cpu()
    if not (finite := values.isfinite()).all():
        number = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(
            f"train: the loss is {values[number].item()} at step {step + 1 - len(values) + number}; "
            "lower the learning rate"
        )


def finish(folder: Path, curve: list[tuple[int, float]], *checkpoints: Path) -> None:
    """Write a training's curve beside its model, remove its checkpoints: another training must not go on from them."""
    (folder / "curve.json").write_text(json.dumps(curve))
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def load_averages(checkpoint: Path, modules: dict[str, nn.Module]) -> int:
    """Put the averaged weights of a training that still runs into `modules`; return the step they are from."""
    with safe_open(checkpoint, "pt") as file, torch.no_grad():
        for name, module in modules.items():
            for key, parameter in module.named_parameters():
                if f"ema/{name}.{key}" in file.keys():  # noqa: SIM118
                    parameter.copy_(file.get_tensor(f"ema/{name}.{key}"))
            module.eval()
        return int(file.metadata()["step"])


def _one_cycle(step: int, steps: int) -> float:
    warm = max(1, round(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _save(
    path: Path,
    about: dict[str, str],
    parameters: dict[str, nn.Parameter],
    buffers: dict[str, Tensor],
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    curve: list[tuple[int, float]],
) -> None:
    tensors = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    tensors |= {f"ema/{name}": p for name, p in ema.items()}
    for name, parameter in parameters.items():
        if state := optimiser.state.get(parameter):  # a parameter the loss never reaches has none
            tensors |= {f"{key}/{name}": state[key] for key in ("exp_avg", "exp_avg_sq")}
    with written_whole(path) as part:
        save_file({k: t.contiguous() for k, t in tensors.items()}, part, about | {"curve": json.dumps(curve)})
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a crash of the machine may leave the new name and none of its bytes


def _resume(
    path: Path,
    about: dict[str, str],
    parameters: dict[str, nn.Parameter],
    buffers: dict[str, Tensor],
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    curve: list[tuple[int, float]],
) -> int:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    for name, value in about.items():
        if header.get(name, value) != value:
            told = f"this checkpoint is of a training with {name} {header[name]}, and now it is {value}"
            raise ValueError(f"{path}: {told}; delete it to begin anew")
    tensors, step = load_file(path), int(header["step"])
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(tensors.get(f"buffer/{name}", buffer))  # older checkpoints have none
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            ema[name].copy_(tensors[f"ema/{name}"])
            if f"exp_avg/{name}" in tensors:
                # In the parameter's own memory layout: the fused optimiser walks through memory, not through indices.
                keys = ("exp_avg", "exp_avg_sq")
                state = {key: torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"]) for key in keys}
                optimiser.state[parameter] = state | {"step": torch.tensor(float(step), device=parameter.device)}
    curve.extend(tuple(point) for point in json.loads(header["curve"]))
    log.info("resuming at step %d from %s", step, path)
    return step
