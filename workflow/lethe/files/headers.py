"""Safetensors files changed where they lie: their headers, and tensors that keep their place.

Apart from `lethe.files.tensors`, which every job reads and writes by: what is exported makes no job's output older.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 2**24  # bytes read or copied at a time
HASH = "modelspec.hash_sha256"
NO_HASH = "0x" + "0" * 64  # holds the place of the hash in a header until `seal`


def header_of(path: Path) -> tuple[int, dict]:
    """Where the tensors of a safetensors file begin, and its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length, json.loads(file.read(length))


def copy_described(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file with more entries in its header's metadata; what holds its tensors is copied as it is.

    Entries stand in the order of their names, which `save_file` of safetensors leaves to chance.
    """
    start, header = header_of(source)
    header["__metadata__"] = dict(sorted({**header.get("__metadata__", {}), **metadata}.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as old, target.open("wb") as new:
        new.write(struct.pack("<Q", len(text)) + text)
        old.seek(start)
        shutil.copyfileobj(old, new, BLOCK)


def replace_tensors(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Overwrite tensors of a safetensors file where they lie; each must have the shape and dtype that it has there."""
    start, header = header_of(path)
    with path.open("r+b") as file:
        for name, tensor in tensors:
            first, end = header[name]["data_offsets"]
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            if len(content) != end - first:
                raise ValueError(f"{path}: {name} has {end - first} bytes; got {len(content)} to put in their place")
            file.seek(start + first)
            file.write(content)


def seal(path: Path) -> None:
    """Put the SHA-256 of a file's tensors, as ModelSpec defines it, where its header has `NO_HASH` under `HASH`."""
    start, _ = header_of(path)
    digest = hashlib.sha256()
    with path.open("r+b") as file:
        head = file.read(start)
        while block := file.read(BLOCK):
            digest.update(block)
        file.seek(head.index(f'"{HASH}":"{NO_HASH}"'.encode()) + len(f'"{HASH}":"0x'))
        file.write(digest.hexdigest().encode())
