"""Edits in files that are added to a base: every difference as it is, or the nearest LoRA of a rank.

Names of modules in kohya's files: the path in the network that kohya's trainer builds, dots as underscores, after
`lora_unet_`. For Stable Diffusion 1.x and 2.x that is diffusers' network, for XL the original one. ComfyUI knows both
kinds of names in any base. AUTOMATIC1111's web UI takes diffusers' names apart by rules, which leave out
`conv_norm_out` and `add_embedding`, and else looks for original ones. So these two have their original names always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lethe.bases.folder import read_object
from lethe.bases.original_names import original_name
from lethe.edits.changes import changes, check_base, check_changes_weights, stored, unet_files
from lethe.edits.edit import Edit, ParameterEdit
from lethe.edits.low_rank import LowRank

HALVES = (torch.float16, torch.bfloat16)
ORIGINAL_ALWAYS = ("conv_norm_out", "add_embedding.")


@dataclass(frozen=True)
class LoraOfEdit:
    """The nearest LoRA to an edit: an update of each projection, and what it leaves out of the change.

    `left_out` is the Frobenius norm of the rest over that of the change, all projections together; `worst` names the
    projection where that share is largest.
    """

    updates: dict[str, LowRank]
    left_out: float
    worst: tuple[str, float]


def lora_of(base: Path, edit: Edit, *, rank: int) -> LoraOfEdit:
    """The LoRA of this rank that comes nearest to what an edit adds to a base's projections, in float32.

    By the Eckart-Young theorem: the largest singular values of each projection's change. An edit by refinement and
    fusion has full rank, so something is always left out unless `rank` reaches the width of the projections.

    Raises ValueError when the edit changes no weights or anything but matrices, was made for other weights or does not
    fit, and on a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"lora_of: `rank` must be 1 or more; got {rank}")
    check_changes_weights(edit)
    for name, shape in edit.shapes.items():
        if len(shape) != 2 or not name.endswith(".weight"):
            raise ValueError(
                f"the edit changes {name}, which is no projection; a LoRA cannot express it: export a diff or a "
                "checkpoint"
            )
    check_base(edit, base)
    updates, shares, total, rest = {}, {}, 0.0, 0.0
    for name, change, _ in changes(base, edit):
        projection = name.removesuffix(".weight")
        updates[projection], values = nearest_low_rank(change, rank)
        size, left = values.square().sum().item(), values[rank:].square().sum().item()
        shares[projection] = (left / size) ** 0.5 if size else 0.0
        total, rest = total + size, rest + left
    worst = max(shares, key=shares.__getitem__)
    return LoraOfEdit(updates, (rest / total) ** 0.5 if total else 0.0, (worst, shares[worst]))


def nearest_low_rank(matrix: Tensor, rank: int) -> tuple[LowRank, Tensor]:
    """The matrix of this rank nearest to `matrix` `[out, d]`, in float32, and the singular values of `matrix`.

    Where `matrix` has fewer than `rank` singular values the factors end in zeros: readers of LoRAs disagree on the
    scale of layers whose rank is not that of the others.
    """
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    missing = rank - len(root)
    if missing > 0:
        up = torch.cat([up, up.new_zeros(len(up), missing)], dim=1)
        down = torch.cat([down, down.new_zeros(missing, down.shape[1])])
    return LowRank(down.float(), up.float()), values


def peft_layers(updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """A LoRA's tensors by the keys that diffusers and peft read."""
    layers = {f"unet.{name}.lora_A.weight": update.down for name, update in updates.items()}
    return layers | {f"unet.{name}.lora_B.weight": update.up for name, update in updates.items()}


def kohya_layers(base: Path, updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """A LoRA's tensors by kohya's keys, with each layer's alpha, which is its rank: the LoRA as it is at strength 1.

    Raises ValueError, naming it, for a module that the network of a base of SDXL has no original name for.
    """
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya  # here, as it is slow to import

    config = read_object(base / "unet" / "config.json")
    named = {_module_name(config, name): update for name, update in updates.items()}
    return {key: tensor.float() for key, tensor in convert_state_dict_to_kohya(peft_layers(named)).items()}


def differences(base: Path, edit: ParameterEdit) -> dict[str, Tensor]:
    """What an edit adds to each parameter, in its dtype (float32 where that is no half or full precision), by key.

    `lora_unet_<module>.diff` for a weight and `.diff_b` for a bias. Where a bias alone changes, a difference of zeros
    stands for the weight: A1111 looks for `.diff` alone to know what a module's entry is.

    Raises ValueError when the edit was made for other weights, does not fit, overflows in the base's dtype, or changes
    a parameter that is neither a weight nor a bias, or has no original name where it needs one.
    """
    check_base(edit, base)
    tensors, lonely, config = {}, {}, read_object(base / "unet" / "config.json")
    for name, change, dtype in changes(base, edit):
        module, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            raise ValueError(
                f"the edit changes {name}, neither weight nor bias, which a file of differences cannot name"
            )
        key = f"lora_unet_{_module_name(config, module).replace('.', '_')}"
        part = ".diff" if kind == "weight" else ".diff_b"
        tensors[key + part] = change.to(dtype if dtype in HALVES else torch.float32)
        if kind == "bias" and f"{module}.weight" not in edit.shapes:
            lonely[f"{module}.weight"] = f"{key}.diff"
    for name, weight in stored(unet_files(base, edit).values(), lonely):
        tensors[lonely[name]] = torch.zeros_like(weight, dtype=torch.float16)
    return tensors


def _module_name(config: Mapping[str, Any], name: str) -> str:
    """The path of a module after which kohya's key is called, by the U-Net's configuration."""
    original = config.get("addition_embed_type") == "text_time" or name.startswith(ORIGINAL_ALWAYS)
    return original_name(name, config) if original else name
