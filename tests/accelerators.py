"""A pretended accelerator: tensors that say they are elsewhere, so that code which forgets to move some fails here.

Its name is that of torch's `meta`, whose every operation is caught. What is computed on it is computed on the CPU, to
the same numbers; but, as on a real one, tensors of it and of the CPU do not go together, NumPy does not read it, and,
if it is made so, it has no float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from lethe.bases.loading import load_network

PRETENDED = torch.device("meta")
CPU = torch.device("cpu")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default)


class Elsewhere(Tensor):
    """A tensor on the pretended accelerator, which holds `here`."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        said = dict(strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype)
        made = Tensor._make_wrapper_subclass(cls, here.size(), device=PRETENDED, **said)
        made.here = here
        return made

    def __init__(self, here: Tensor) -> None:
        pass

    def __repr__(self, **kwargs: Any) -> str:
        return f"Elsewhere({self.here!r})"

    # torch makes no values of lists on what is called `meta`.

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def new_tensor(self, data: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype).to(self.device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {}, float64=True)


class Pretended(TorchDispatchMode):
    """While it is on, tensors can be made on and moved to the accelerator."""

    def __init__(self, *, float64: bool) -> None:
        super().__init__()
        self.float64 = float64

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {}, float64=self.float64)


def run(func: Any, args: tuple, kwargs: dict, *, float64: bool) -> Any:
    """An operation on the CPU, with its result where a real accelerator would have it; the errors of a real one."""
    given, _ = tree_flatten((args, kwargs))
    there = [one for one in given if isinstance(one, Elsewhere)]
    here = [one for one in given if isinstance(one, Tensor) and not isinstance(one, Elsewhere) and one.dim()]
    moves, made_at = func in MOVES, kwargs.get("device")
    if there and here and not moves and func not in INDEXED:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, and found two")
    plain = tree_map(lambda one: one.here if isinstance(one, Elsewhere) else one, (args, kwargs))
    if made_at is not None:
        plain[1]["device"] = CPU
    made = func(*plain[0], **plain[1])
    elsewhere = made_at == PRETENDED if made_at is not None else bool(there)
    if func is torch.ops.aten.copy_.default:
        elsewhere = isinstance(args[0], Elsewhere)
    if not elsewhere:
        return args[0] if func is torch.ops.aten.copy_.default else made

    def placed(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if one.dtype == torch.float64 and not float64:
            raise TypeError(f"{func}: the accelerator has no float64")
        return Elsewhere(one)

    return return_and_correct_aliasing(func, args, kwargs, tree_map(placed, made))


@contextmanager
def accelerator(*, float64: bool) -> Iterator[torch.device]:
    """The device, while the block runs. Attention is by plain products, as no other kernel reads such tensors."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tensor = torch.tensor

    def tensor_of(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        there = device is not None and torch.device(device) == PRETENDED
        made = tensor(data, device=CPU if there else device, **kwargs)
        return made.to(PRETENDED) if there else made

    with pytest.MonkeyPatch.context() as patch, Pretended(float64=float64), sdpa_kernel(SDPBackend.MATH):
        for module in ("bases.pipeline", "measures.clip"):  # the libraries load by way of the real `meta`
            patch.setattr(f"lethe.{module}.load_network", _outside)
        patch.setattr(torch, "tensor", tensor_of)
        if not float64:
            patch.setattr("lethe.bases.devices.WITHOUT_FLOAT64", {PRETENDED.type})
        yield PRETENDED


def _outside(*args: Any, **kwargs: Any) -> nn.Module:
    with _disable_current_modes():
        return load_network(*args, **kwargs)
