"""LoRA files in diffusers' format: written after training, read by the join and by `load_lora_weights`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lethe.edits.low_rank import LowRank
from lethe.files.tensors import read_tensors, write_tensors

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def save_lora(folder: Path, state: dict[str, Tensor], record: dict) -> None:
    """Write an adapter as `pytorch_lora_weights.safetensors` in diffusers' format, with `record` in the header.

    Raises ValueError, naming file and tensor, when a weight is not finite.
    """
    from diffusers.utils import convert_state_dict_to_diffusers  # here: only training writes, and it is slow to import

    layers = {f"unet.{key}": tensor for key, tensor in convert_state_dict_to_diffusers(state).items()}
    # Not `save_lora_weights`: it writes two header entries in changing order, and a record makes its loader fail.
    write_tensors(folder / WEIGHTS_NAME, layers, record)


def load_lora(path: Path) -> dict[str, LowRank]:
    """Read an adapter written by `save_lora`: a LowRank for each projection, by module name.

    Raises ValueError, naming the file, when it is no such adapter.
    """
    tensors = {key.removeprefix("unet."): value for key, value in read_tensors(path)[0].items()}
    if not tensors:
        raise ValueError(f"{path}: this is no adapter; it holds no tensors")
    updates = {}
    for name in sorted({key.split(".lora")[0] for key in tensors}):
        try:
            down, up = (
                _part(tensors, name, spellings) for spellings in (("lora_A", "lora.down"), ("lora_B", "lora.up"))
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
            raise ValueError(
                f"{path}: {name} must have down [n, d] and up [out, n]; got {[*down.shape]}, {[*up.shape]}"
            )
        updates[name] = LowRank(down, up)
    return updates


def _part(tensors: dict[str, Tensor], name: str, spellings: tuple[str, ...]) -> Tensor:
    for spelling in spellings:
        if f"{name}.{spelling}.weight" in tensors:
            return tensors[f"{name}.{spelling}.weight"]
    raise ValueError(f"load_lora: {name} has none of {', '.join(spellings)}")
