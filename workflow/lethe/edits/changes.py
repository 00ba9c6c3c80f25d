"""What an edit changes in the files of its base, read without building a network."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from lethe.bases.folder import weight_files
from lethe.bases.weights import weights_hash
from lethe.edits.edit import Edit, ParameterEdit, check_edited, check_fit
from lethe.edits.guidance import GuidanceEdit
from lethe.files.tensors import open_tensors


def check_changes_weights(edit: Edit) -> None:
    """Raise ValueError for an edit that changes no weights: no file of weights can hold a rule of inference."""
    if not isinstance(edit, ParameterEdit):
        kind = f" of {edit.kind}" if isinstance(edit, GuidanceEdit) else ""
        raise ValueError(
            f"this edit{kind} changes no weight, so no file of weights can hold it; it guides inference, prompt by "
            "prompt, as images are drawn: sample with it (`lethe sample`)"
        )


def check_base(edit: Edit, base: Path) -> None:
    """Raise ValueError when a base's folder does not hold the weights that an edit was made for, or it does not fit."""
    check_changes_weights(edit)
    variant = edit.record["base"].get("variant")
    made_for, found = edit.record["base"].get("weights_sha256"), weights_hash(base, variant=variant)
    if not isinstance(made_for, dict):
        raise ValueError("the edit's header has no hash of the weights it was made for; make the edit again")
    if differing := sorted(name for name in {*made_for, *found} if made_for.get(name) != found.get(name)):
        raise ValueError(
            f"the edit was made for base {edit.record['base']['name']} ({edit.record['base']['model']}), and {base} "
            f"differs from it in {' and '.join(differing)}; make the edit again for this base"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for path in unet_files(base, edit).values():
        with open_tensors(path) as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    check_fit(edit, shapes)


def unet_files(base: Path, edit: Edit) -> dict[str, Path]:
    """The weight files of a base's U-Net, of the variant that an edit was made for, as `weight_files` names them."""
    return weight_files(base / "unet", variant=edit.record["base"].get("variant"))


def stored(paths: Iterable[Path], names: Container[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of weight files, or each of those with `names`, one by one, as it is stored."""
    for path in paths:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                if names is None or name in names:
                    yield name, file.get_tensor(name)


def edited_in(path: Path, edit: ParameterEdit) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a weight file that an edit changes, edited, in the dtypes that they have there, one by one.

    Raises ValueError when one is not finite in its dtype.
    """
    for name, tensor in stored([path], edit.shapes):
        edited = edit.edited({name: tensor})
        check_edited(edited)
        yield name, edited[name]


def changes(base: Path, edit: ParameterEdit) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """What an edit adds to each parameter, in float64, with the parameter's name and the dtype that it is stored in.

    Raises ValueError when an edited parameter is not finite in that dtype.
    """
    for name, tensor in stored(unet_files(base, edit).values(), edit.shapes):
        old = tensor.to(torch.float64)
        new = edit.edited({name: old})[name]
        check_edited({name: new.to(tensor.dtype)})
        yield name, new - old, tensor.dtype
