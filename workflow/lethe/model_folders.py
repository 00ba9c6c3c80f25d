"""Folders of models in the formats of diffusers and transformers: their indexes and weight files, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lethe.hub import hub_problem
from lethe.text_files import read_json

UNET_WEIGHTS = "diffusion_pytorch_model"
WEIGHT_STEMS = (UNET_WEIGHTS, "model")  # of components of diffusers and of transformers
LIBRARIES = ("diffusers", "transformers")  # whose classes a pipeline may be made of
WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|onnx_data|pb)(\.index(\.\w+)?\.json)?")
LEGAL = re.compile(r"(licen[sc]e|notice).*", re.IGNORECASE)
READ_BESIDE_WEIGHTS = (".json", ".txt", ".model")  # configurations, vocabularies, merges
UNREAD_PARTS = ("safety_checker",)  # of pipelines: it is never loaded


def check_index(model: str, index: Mapping) -> None:
    """Raise ValueError when a pipeline's index names a class that is none of diffusers or transformers.

    Loading it would import whatever module it names, or run code that lies in the model's folder.
    """
    import diffusers

    if not isinstance(own := index.get("_class_name"), str) or not hasattr(diffusers, own):
        raise ValueError(f"{model}: model_index.json names the pipeline {own!r}; it must be one of diffusers' own")
    for name, (library, kind) in _parts(model, index).items():
        known = library in (None, *LIBRARIES) or (isinstance(library, str) and hasattr(diffusers.pipelines, library))
        plain = isinstance(kind, str) and re.fullmatch(r"[A-Za-z]\w*", kind)
        if not known or not (plain or (library is None and kind is None)):
            raise ValueError(
                f"{model}: model_index.json names {kind!r} of {library!r} for {name}; a base must be made of classes "
                f"of {' and '.join(LIBRARIES)} alone, whose code is installed"
            )


def _parts(model: str | Path, index: Mapping) -> dict[str, list]:
    """Library and class of each part that a pipeline's index lists. A part's name is that of its folder."""
    parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and not name.startswith("_")}
    for name, kind in parts.items():
        if len(kind) != 2 or not name.isidentifier():
            told = f"each part by a plain name with its library and class; got {name!r}: {kind!r}"
            raise ValueError(f"{model}: model_index.json must list {told}")
    return parts


def weight_map(path: Path) -> dict[str, str]:
    """Which shard holds which tensor, from an index. Raises ValueError when a shard is no file beside it."""
    shards = read_object(path).get("weight_map")
    if not isinstance(shards, dict) or any(not isinstance(n, str) or Path(n).name != n for n in shards.values()):
        raise ValueError(f"{path}: its shards must be files beside it")
    return shards


def read_part(model: str, revision: str | None, name: str) -> dict:
    return read_object(base_file(model, revision, name))


def read_object(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it must hold a JSON object")
    return content


def base_file(model: str, revision: str | None, name: str) -> Path:
    """A file of a base: in its folder, or downloaded from the hub. Raises ValueError for what is no hub id."""
    if Path(model).is_dir():
        return Path(model) / name
    _check_hub(model, revision)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, name, revision=revision))


def _check_hub(model: str, revision: str | None) -> None:
    if problem := hub_problem(model, revision):
        raise ValueError(f"{model}: there is no such folder, and {problem}")


def cached_folder(model: str, revision: str | None, variant: str | None = None) -> Path | None:
    """The folder of a model without asking the network: itself; None where it would have to be downloaded."""
    return Path(model) if Path(model).is_dir() else None


def base_folder(model: str, revision: str | None, *, variant: str | None = None) -> Path:
    """The folder of a base: itself, or what the pipeline needs of a hub id, downloaded if it is not there yet.

    Raises ValueError when the hub does not give the model.
    """
    if Path(model).is_dir():
        return Path(model)
    _check_hub(model, revision)
    import diffusers

    try:
        found = diffusers.DiffusionPipeline.download(model, revision=revision, variant=variant, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{model}: no such folder, and the hub does not give it ({reason})") from None
    return Path(found)


def weight_files(component: Path, *, variant: str | None = None) -> dict[str, Path]:
    """The safetensors files that a component (a folder such as `unet`) loads: one, its shards, or none.

    By the names that they have where there is no variant. A component without the variant loads its other files, as in
    diffusers.
    """
    for part in (f".{variant}", "") if variant else ("",):
        for stem in WEIGHT_STEMS:
            index, whole = component / f"{stem}.safetensors.index{part}.json", component / f"{stem}{part}.safetensors"
            if index.is_file():
                names = sorted(set(weight_map(index).values()))
                return {name.replace(part, "", 1) if part else name: component / name for name in names}
            if whole.is_file():
                return {f"{stem}.safetensors": whole}
    return {}


def loaded_files(folder: Path, *, variant: str | None = None) -> dict[str, Path]:
    """The files that are loaded from a model's folder, a pipeline's or a single model's, by their names in it.

    Weights have the names that they have where there is no variant. Cards, pictures, weights in other formats or of
    other variants are not among them; a component that has no weights as safetensors counts with all that it has.
    Raises ValueError when the folder holds no model.
    """
    if (folder / "model_index.json").is_file():
        parts = [name for name in parts_of(folder) if name not in UNREAD_PARTS]
        found = {"model_index.json": folder / "model_index.json"}
        for part in parts:
            found |= {f"{part}/{name}": path for name, path in _component_files(folder / part, variant).items()}
        return found
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: this is no model's folder (it has neither model_index.json nor config.json)")
    return _component_files(folder, variant)


def _component_files(component: Path, variant: str | None) -> dict[str, Path]:
    paths = [path for path in component.iterdir() if path.is_file()] if component.is_dir() else []
    paths = [path for path in paths if not path.name.startswith(".") and not LEGAL.fullmatch(path.name)]
    weights = weight_files(component, variant=variant)
    weights = weights or {path.name: path for path in paths if WEIGHTS.fullmatch(path.name)}
    others = (path for path in paths if path.suffix in READ_BESIDE_WEIGHTS and not WEIGHTS.fullmatch(path.name))
    return {path.name: path for path in others} | weights


def parts_of(folder: Path) -> list[str]:
    """Names of the components that a pipeline's folder has, as its model_index.json lists them."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder}: this is no pipeline in diffusers format (it has no model_index.json)")
    return [name for name, kind in _parts(folder, read_object(index)).items() if kind[0]]
