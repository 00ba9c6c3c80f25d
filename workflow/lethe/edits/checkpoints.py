"""Edits in single-file checkpoints: a copy of somebody's own file, in which the edited tensors alone are others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lethe.bases.folder import read_object
from lethe.bases.original_names import PREFIX, original_name
from lethe.edits.changes import check_base, stored, unet_files
from lethe.edits.edit import ParameterEdit, check_edited
from lethe.files.headers import copy_described, replace_tensors, seal
from lethe.files.tensors import open_tensors
from lethe.files.whole import written_whole

EMA = "model_ema."  # a second U-Net, the moving average of training, whose names have no dots


def write_checkpoint(
    base: Path, edit: ParameterEdit, checkpoint: Path, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL with an edit in its U-Net, whole or not at all.

    checkpoint: the file of the very base that the edit was made for, in safetensors.  metadata: entries for the header.
    All else is copied byte for byte, and the edited tensors keep the dtypes that they have there, so that a file in
    half precision of a base in full precision gives one too. One tensor is in memory at a time.

    Raises ValueError when the edit changes no weights or one that such files do not have, was made for other weights
    than the base's or the file's, or overflows in the file's dtype, and when the file is none in safetensors or holds a
    second U-Net, which would stay as it is.
    """
    if checkpoint.suffix.lower() != ".safetensors":
        raise ValueError(
            f"{checkpoint}: only checkpoints in safetensors are rewritten, as others may run code when they are read; "
            "save it as safetensors first, say with the checkpoint merger of your UI"
        )
    check_base(edit, base)
    config = read_object(base / "unet" / "config.json")
    for name in edit.shapes:
        original_name(name, config)
    with open_tensors(checkpoint) as file:
        if any(name.startswith(EMA) for name in file.keys()):  # noqa: SIM118
            raise ValueError(
                f"{checkpoint}: it holds a second U-Net ({EMA}...), which would stay unedited and which some programs "
                "load; take the pruned file of this model"
            )
    check_same(base, edit, checkpoint, config)
    with written_whole(path) as part:
        copy_described(checkpoint, part, metadata)
        replace_tensors(part, _edited(base, edit, checkpoint, config))
        seal(part)


def check_same(base: Path, edit: ParameterEdit, checkpoint: Path, config: Mapping) -> None:
    """Raise ValueError when a checkpoint's U-Net is not, in the file's precision, that of the base."""
    with open_tensors(checkpoint) as file:
        held = set(file.keys())
        for name, own in stored(unet_files(base, edit).values()):
            there = PREFIX + original_name(name, config)
            if there not in held:
                raise ValueError(
                    f"{checkpoint}: it has no tensor {there}; it must be a whole checkpoint of the base's "
                    "kind, with the names of Stable Diffusion's own code"
                )
            found = file.get_tensor(there)
            if not torch.equal(own.to(found.dtype), found):
                raise ValueError(
                    f"{checkpoint}: its {there} is not the base's {name}; the edit was made for {base}, so "
                    "name the checkpoint that holds those weights, or make the edit again for this one"
                )


def _edited(base: Path, edit: ParameterEdit, checkpoint: Path, config: Mapping) -> Iterator[tuple[str, Tensor]]:
    """The edited tensors by their names in a checkpoint, in its dtypes, one by one."""
    with open_tensors(checkpoint) as file:
        for name, own in stored(unet_files(base, edit).values(), edit.shapes):
            there = PREFIX + original_name(name, config)
            edited = edit.edited({name: own})[name].to(file.get_tensor(there).dtype)
            check_edited({name: edited})
            yield there, edited
