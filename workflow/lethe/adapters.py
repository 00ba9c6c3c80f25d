"""LoRA files in diffusers' format: written after training, read by the join and by `load_lora_weights`."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lethe.files import written_whole
from lethe.low_rank import LowRank
from lethe.provenance import as_header

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


def save_lora(folder: Path, state: dict[str, Tensor], record: dict) -> None:
    """Write an adapter as `pytorch_lora_weights.safetensors` in diffusers' format, with `record` in the header."""
    from diffusers.utils import convert_state_dict_to_diffusers  # here: only training writes, and it is slow to import

    layers = {f"unet.{key}": tensor.contiguous() for key, tensor in convert_state_dict_to_diffusers(state).items()}
    # Not `save_lora_weights`: it writes two header entries in changing order, and a record makes its loader fail.
    with written_whole(folder / WEIGHTS_NAME) as part:
        save_file(layers, part, as_header(record))


def load_lora(path: Path) -> dict[str, LowRank]:
    """Read an adapter written by `save_lora`: a LowRank for each projection, by module name."""
    tensors = {key.removeprefix("unet."): value for key, value in load_file(path).items()}
    names = sorted({key.split(".lora")[0] for key in tensors})
    return {
        name: LowRank(_part(tensors, name, ("lora_A", "lora.down")), _part(tensors, name, ("lora_B", "lora.up")))
        for name in names
    }


def _part(tensors: dict[str, Tensor], name: str, spellings: tuple[str, ...]) -> Tensor:
    for spelling in spellings:
        if f"{name}.{spelling}.weight" in tensors:
            return tensors[f"{name}.{spelling}.weight"]
    raise ValueError(f"load_lora: {name} has none of {', '.join(spellings)}")
