"""Edits: the changed weights that a method makes, kept apart from the base they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lethe.files import written_whole
from lethe.provenance import as_header


@dataclass(frozen=True)
class Edit:
    """Changed U-Net parameters by name (`weights`) and what made them (`record`, with the base's `fingerprint`)."""

    weights: dict[str, Tensor]
    record: dict


def save_edit(path: Path, edit: Edit) -> None:
    """Write an edit as one safetensors file with its record in the header; equal edits give equal bytes."""
    with written_whole(path) as part:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in edit.weights.items()}, part, as_header(edit.record)
        )


def load_edit(path: Path) -> Edit:
    """Read an edit. Raises ValueError for a safetensors file that carries no record."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if "lethe" not in header:
            raise ValueError(f"{path}: this is no edit (its header has no 'lethe' record)")
        return Edit({name: file.get_tensor(name) for name in file.keys()}, json.loads(header["lethe"]))  # noqa: SIM118


@torch.no_grad()
def apply_edit(unet: nn.Module, edit: Edit, *, base_fingerprint: str) -> None:
    """Put an edit's weights into `unet`, keeping its dtype and device.

    Raises ValueError, leaving `unet` as it was, when the edit was made for another base or does not fit.
    """
    made_for = edit.record["base"]["fingerprint"]
    if made_for != base_fingerprint:
        raise ValueError(
            f"apply_edit: the edit was made for base {edit.record['base']['name']} ({made_for[:12]}), this one is "
            f"{base_fingerprint[:12]}; make the edit again for this base"
        )
    parameters = dict(unet.named_parameters())
    _check_shapes(parameters, edit.weights)
    for name, weight in edit.weights.items():
        parameters[name].copy_(weight)


def _check_shapes(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if name not in parameters:
            raise ValueError(f"apply_edit: the base has no parameter {name}")
        if parameters[name].shape != weight.shape:
            raise ValueError(
                f"apply_edit: {name} is {list(weight.shape)} in the edit and {list(parameters[name].shape)} in the base"
            )
