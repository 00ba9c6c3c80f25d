"""The weights of a base that edits are made from, read from its files without building a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from lethe.bases.folder import UNET_WEIGHTS, base_folder, parts_of, weight_files
from lethe.bases.unet import PROJECTIONS
from lethe.files.tensors import check_finite, open_tensors


def projection_weights(model: str, revision: str | None, *, variant: str | None = None) -> dict[str, torch.Tensor]:
    """The weights of the cross-attention projections `[out, d]` by module name, on the CPU, as they are stored.

    Read from the U-Net's file or shards without building the U-Net. Raises ValueError,
    naming the file, when it is no safetensors file or a projection is not finite.
    """
    unet = base_folder(model, revision, variant=variant) / "unet"
    files = weight_files(unet, variant=variant) or {"": unet / f"{UNET_WEIGHTS}.safetensors"}
    weights = {}
    for path in files.values():
        with open_tensors(path) as file:
            for name in filter(_is_projection, file.keys()):
                weight = file.get_tensor(name)
                check_finite(path, name, weight)
                weights[name.removesuffix(".weight")] = weight
    return weights


def _is_projection(weight: str) -> bool:
    return weight.removesuffix(".weight").endswith(PROJECTIONS)


def weights_hash(folder: Path, *, variant: str | None = None) -> dict[str, str]:
    """SHA-256 of the weights that an edit is made from, for the U-Net and each text encoder of a base's folder.

    Taken over names and values as float32, so sharding a file or widening its dtype keeps it. Raises ValueError when
    there are no such weights, or their file is no safetensors file.
    """
    found = {}
    for component in ("unet", *sorted(name for name in parts_of(folder) if name.startswith("text_encoder"))):
        where = {}
        for path in weight_files(folder / component, variant=variant).values():
            with open_tensors(path) as file:
                # transformers 5 writes the names of text encoders without the prefix that hub files have
                where |= {name.removeprefix("text_model."): (path, name) for name in file.keys()}  # noqa: SIM118
        if not where:
            raise ValueError(f"{folder / component}: there are no weights as safetensors")

        def stored(where: dict[str, tuple[Path, str]] = where) -> Iterator[tuple[str, torch.Tensor]]:
            for short, (path, name) in sorted(where.items()):
                with open_tensors(path) as file:
                    yield short, file.get_tensor(name)

        found[component] = _values_hash(stored())
    return found


def weights_hash_of(weights: Mapping[str, torch.Tensor]) -> str:
    """The same of one network that is loaded, from its `state_dict()`."""
    named = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    return _values_hash(sorted(named.items(), key=lambda item: item[0]))


def _values_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names and values, which come in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if tensor.is_floating_point():  # position ids come and go between versions
            digest.update(f"{name}\0{list(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()
