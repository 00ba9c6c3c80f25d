"""The training loop shared by the emoji world's models: seeded batches, one-cycle AdamW, EMA, resumable checkpoints."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)


def train(
    modules: dict[str, nn.Module],
    loss_of_batch: Callable[[np.random.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    checkpoint: Path,
    ema_decay: float = 0.999,
    checkpoint_every: int = 100,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> list[tuple[int, float]]:
    """Minimise the loss of seeded batches over the trainable parameters of `modules`; leave the EMA weights in them.

    Step k draws its batch from `default_rng([seed, k])`, so a run resumed from `checkpoint` (written every
    `checkpoint_every` steps, safetensors) continues exactly where it stopped. Learning rate: linear warm-up over 3 %
    of the steps, cosine to zero; `rates` multiplies it for the modules that it names. Returns (step, mean loss since
    the last point) every 100 steps.
    Raises FloatingPointError, naming the step, when the loss is not finite; ValueError when the checkpoint says that it
    is of a training with other steps, another rate or seed.
    """
    about = {"steps": str(steps), "learning_rate": str(learning_rate), "seed": str(seed)}
    parameters = {
        f"{name}.{key}": p for name, m in modules.items() for key, p in m.named_parameters() if p.requires_grad
    }
    buffers = {f"{name}.{key}": buffer for name, m in modules.items() for key, buffer in m.named_buffers()}
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "rate": rates.get(name, 1.0)}
        for name, module in modules.items()
    ]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-4, fused=True)
    ema = {name: p.detach().clone() for name, p in parameters.items()}
    curve: list[tuple[int, float]] = []
    first = _resume(checkpoint, about, parameters, buffers, ema, optimiser, curve) if checkpoint.exists() else 0
    recent, started = [], time.monotonic()
    for module in modules.values():
        module.train()
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * group["rate"] * _one_cycle(step, steps)
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of_batch(np.random.default_rng([seed, step]))
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"train: the loss is {loss.item()} at step {step}; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        weight = min(ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(ema.values()), [p.detach() for p in parameters.values()], 1 - weight)
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            curve.append((step + 1, float(np.mean(recent))))
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


def finish(folder: Path, curve: list[tuple[int, float]], checkpoint: Path) -> None:
    """Write a training's curve beside its model and remove its checkpoint: another training must not go on from it."""
    (folder / "curve.json").write_text(json.dumps(curve))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({k: t.contiguous() for k, t in tensors.items()}, part, about | {"curve": json.dumps(curve)})
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # else a crash of the machine may leave the new name and none of its bytes
    part.replace(path)


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
