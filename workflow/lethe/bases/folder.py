"""Folders of models in the formats of diffusers and transformers: their indexes and weight files, without torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lethe.files.tables import read_json
from lethe.inputs.hub import hub_problem

UNET_WEIGHTS = "diffusion_pytorch_model"
WEIGHT_STEMS = (UNET_WEIGHTS, "model")  # of components of diffusers and of transformers
LIBRARIES = ("diffusers", "transformers")  # whose classes a pipeline may be made of
# Parts of a pipeline that are loaded. Its others (safety checker, feature extractor, image encoder) draw nothing.
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")  # of weights, under any name
MODEL_FILES = (  # of a single model on the hub
    "*config.json",
    "tokenizer.json",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "model*.safetensors",
    "model.safetensors.index.json",
)
WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|onnx_data|pb)(\.index(\.\w+)?\.json)?")
LEGAL = re.compile(r"(licen[sc]e|notice).*", re.IGNORECASE)
READ_BESIDE_WEIGHTS = (".json", ".txt", ".model")  # configurations, vocabularies, merges


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


def read_object(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it must hold a JSON object")
    return content


def base_folder(model: str, revision: str | None, *, variant: str | None = None, key: str = "") -> Path:
    """The folder of a base: itself, or the hub's snapshot of what its pipeline needs, downloaded if it is not there.

    Nothing asks the network about a snapshot that is cached whole (`cached_folder`). Raises ValueError, naming the
    model and, if given, its `key` in the configuration, for what is no hub id and when the hub does not give it.
    """

    def download() -> str:
        import diffusers

        return diffusers.DiffusionPipeline.download(model, revision=revision, variant=variant, use_safetensors=True)

    return _found(model, revision, variant, key, download)


def model_folder(model: str, revision: str | None, *, key: str = "") -> Path:
    """The folder of a single model (a judge, a segmenter), as `base_folder` gives that of a base."""

    def download() -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(model, revision=revision, allow_patterns=list(MODEL_FILES))

    return _found(model, revision, None, key, download)


def single_file_problem(model: str) -> str | None:
    """Why a path is no model's folder but one file of weights; None if it is not."""
    path = Path(model)
    if path.suffix.lower() not in SINGLE_FILES or path.is_dir():
        return None
    if not path.is_file() and len(path.parts) == 2:
        return None  # owner/name.bin could be a hub id
    return (
        f"{model!r} is a single file, no folder in diffusers format; convert it once in Python, by "
        "diffusers.StableDiffusionPipeline (or StableDiffusionXLPipeline).from_single_file(FILE)"
        ".save_pretrained(FOLDER), and name that folder"
    )


def _found(model: str, revision: str | None, variant: str | None, key: str, download: Callable[[], str]) -> Path:
    where = f"{key}: " if key else ""
    if Path(model).is_dir():
        return Path(model)
    if problem := single_file_problem(model):
        raise ValueError(f"{where}{problem}")
    if problem := hub_problem(model, revision):
        raise ValueError(f"{where}{model}: there is no such folder, and {problem}")
    if (cached := cached_folder(model, revision, variant)) is not None:
        return cached
    at = f" --revision {revision}" if revision else ""
    mend = f"run `hf download {model}{at}` where there is a network, or correct name and revision"
    try:
        from huggingface_hub import HfApi

        HfApi().model_info(model, revision=revision, timeout=30)  # says in a line what downloads say in ten
        folder = Path(download())
    except Exception as error:  # each client of the network has classes of its own
        from huggingface_hub.constants import HF_HUB_OFFLINE

        reason = " ".join(str(error).partition("\n")[0].split())
        why = "HF_HUB_OFFLINE forbids to ask the hub" if HF_HUB_OFFLINE else f"the hub does not give it ({reason})"
        raise ValueError(
            f"{where}{model}: no such folder, the hub's cache does not hold all of it, and {why}; {mend}"
        ) from None
    lacking = lacking_of_base if (folder / "model_index.json").is_file() else lacking_of_model
    if file := next(lacking(folder, variant), None):
        raise ValueError(
            f"{where}{model}: what the hub has of it here lacks {file}; {mend}; if its weights are no safetensors, a "
            "revision such as refs/pr/1, where the hub offers them as such, may do"
        )
    return folder


def cached_folder(model: str, revision: str | None, variant: str | None = None) -> Path | None:
    """The folder of a model without a network: itself, or a hub id's snapshot if the cache holds all that is loaded.

    None for a snapshot that lacks a file, such as one of the shards of its weights, and for what is no hub id.
    """
    if Path(model).is_dir():
        return Path(model)
    if hub_problem(model, revision):
        return None
    from huggingface_hub import try_to_load_from_cache

    for name, lacking in (("model_index.json", lacking_of_base), ("config.json", lacking_of_model)):
        path = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(path, str):
            folder = Path(path).parent
            try:
                return None if next(lacking(folder, variant), None) else folder
            except (ValueError, OSError):  # a file that is no JSON: who loads the model says so
                return folder
    return None


def lacking_of_base(folder: Path, variant: str | None = None) -> Iterator[str]:
    """What a pipeline's folder lacks of the files that are loaded of it, as paths in it; some name two that would do.

    Raises ValueError for indexes that are none.
    """
    parts = {name: kind for name, kind in _parts(folder, read_object(folder / "model_index.json")).items() if kind[0]}
    networks = [name for name in parts if name in NETWORKS]
    for name in parts:
        if name in TOKENIZERS:
            yield from (f"{name}/{file}" for file in lacking_words(folder / name))
        elif name == "scheduler" and not (folder / name / "scheduler_config.json").is_file():
            yield f"{name}/scheduler_config.json"
        elif name in NETWORKS:
            yield from (f"{name}/{file}" for file in lacking_weights(folder / name, variant=variant))
    if variant and networks and not any(stored_as(folder / name, variant) for name in networks):
        yield f"*.{variant}.safetensors"


def lacking_of_model(folder: Path, variant: str | None = None) -> Iterator[str]:
    """What a single model's folder lacks of the files that are loaded of it, as `lacking_of_base`."""
    if not (folder / "config.json").is_file():
        yield "config.json"
        return
    config = read_object(folder / "config.json")
    yield from lacking_weights(folder, variant=variant)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        yield "preprocessor_config.json"
    if "text_config" in config or "text_config_dict" in config or config.get("model_type") in ("clip", "clipseg"):
        yield from lacking_words(folder)


def lacking_weights(component: Path, *, variant: str | None = None) -> list[str]:
    """What a component's folder lacks of its configuration and its weights as safetensors."""
    lacking = [] if (component / "config.json").is_file() else ["config.json"]
    files = weight_files(component, variant=variant)
    if not files:
        stem = UNET_WEIGHTS if component.name in ("unet", "vae") else "model"
        return [*lacking, f"{stem}.safetensors"]
    return lacking + [path.name for path in files.values() if not path.is_file()]


def lacking_words(tokenizer: Path) -> list[str]:
    """What a tokenizer's folder lacks: its vocabulary, or what says how it is used."""
    has = {path.name for path in tokenizer.iterdir() if path.is_file()} if tokenizer.is_dir() else set()
    lacking = [] if "tokenizer_config.json" in has else ["tokenizer_config.json"]
    if not has & {"tokenizer.json", "vocab.txt"}:
        two = [name for name in ("vocab.json", "merges.txt") if name not in has]
        lacking += ["tokenizer.json (or vocab.json and merges.txt)"] if len(two) == 2 else two
    return lacking


def stored_as(component: Path, variant: str) -> bool:
    """Whether a component's folder has weights as safetensors in files of this variant."""
    return component.is_dir() and any(
        f".{variant}." in path.name or f".{variant}-" in path.name for path in component.glob("*.safetensors")
    )


def weight_files(component: Path, *, variant: str | None = None) -> dict[str, Path]:
    """The safetensors files that a component (a folder such as `unet`) loads: one, its shards, or none.

    By the names that they have where there is no variant. A component without the variant loads its other files, as in
    diffusers.
    """
    found, part = _weights(component, variant)
    if found is None:
        return {}
    if found.suffix == ".json":
        names = sorted(set(weight_map(found).values()))
        return {name.replace(part, "", 1) if part else name: component / name for name in names}
    return {found.name.replace(part, "", 1) if part else found.name: found}


def shard_index(component: Path, *, variant: str | None = None) -> dict[str, str] | None:
    """Which of its shards holds which tensor, if a component's weights (`weight_files`) are stored in shards."""
    found, _ = _weights(component, variant)
    return weight_map(found) if found is not None and found.suffix == ".json" else None


def _weights(component: Path, variant: str | None) -> tuple[Path | None, str]:
    """The file of a component's weights, or the index of its shards; and the part of its name that tells a variant."""
    for part in (f".{variant}", "") if variant else ("",):
        for stem in WEIGHT_STEMS:
            for path in (component / f"{stem}.safetensors.index{part}.json", component / f"{stem}{part}.safetensors"):
                if path.is_file():
                    return path, part
    return None, ""


def loaded_files(folder: Path, *, variant: str | None = None) -> dict[str, Path]:
    """The files that are loaded from a model's folder, a pipeline's or a single model's, by their names in it.

    Weights have the names that they have where there is no variant. Cards, pictures, weights in other formats or of
    other variants are not among them; a component that has no weights as safetensors counts with all that it has.
    Raises ValueError when the folder holds no model.
    """
    if (folder / "model_index.json").is_file():
        parts = [name for name in parts_of(folder) if name not in UNUSED]
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
