"""Safetensors files from anybody: opened, or read whole, and refused in a sentence that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

DEPTH = 64  # of a record; ours have about six levels, and Python's own writers of JSON recurse


@contextmanager
def open_tensors(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file, tensors on the CPU; the library itself checks that its header fits its bytes.

    Raises ValueError, naming the file, when there is none or it is none; a pickle under that name is not read.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such safetensors file")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: this is no safetensors file, or only a part of one ({error})") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """All tensors of a file by name, and the record in its header (`as_header`); an empty one where there is none.

    Raises ValueError, naming the file, when it is no safetensors file, its record is no JSON object, or a tensor holds
    anything but finite floating-point numbers.
    """
    with open_tensors(path) as file:
        header = (file.metadata() or {}).get("lethe", "{}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        record = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the record in its header is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: the record in its header is no JSON object")
    level, depth = [record], 0
    while level := [child for node in level for child in _children(node)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"{path}: the record in its header is nested more than {DEPTH} levels deep")
    for name, tensor in tensors.items():
        check_finite(path, name, tensor)
    return tensors, record


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: dict) -> None:
    """Write tensors as one safetensors file with `record` in its header, whole or not at all; equal for equal content.

    Raises ValueError, naming file and tensor, for what `read_tensors` would refuse.
    """
    from lethe.files.whole import written_whole  # here, as it takes numpy and Pillow along

    for name, tensor in tensors.items():
        check_finite(path, name, tensor)
    with written_whole(path) as part:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, as_header(record)
        )


def as_header(record: dict) -> dict[str, str]:
    """A record as safetensors metadata (one JSON text under `lethe`)."""
    return {"lethe": json.dumps(record, sort_keys=True)}


def check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ValueError, naming file and tensor, when it holds anything but finite floating-point numbers."""
    # float8 has no arithmetic of its own
    wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    if not wide.is_floating_point() or not wide.isfinite().all():
        raise ValueError(f"{path}: {name} holds something other than finite floating-point numbers")


def _children(node: object) -> list:
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
