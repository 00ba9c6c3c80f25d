"""Bases: diffusers pipelines to edit, their parts, and their cross-attention projections."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lethe.loading import WEIGHTS, load_network, load_tokenizer, told_of
from lethe.model_checks import CLASSES, base_problem, text_problem
from lethe.model_folders import UNET_WEIGHTS, UNUSED, base_folder, check_index, parts_of, read_object, weight_files
from lethe.schedulers import CONFIG, OWN, build_scheduler
from lethe.tensor_files import check_finite, open_tensors
from lethe.text import TextEncoders

if TYPE_CHECKING:  # diffusers and transformers take seconds to import: the functions that load models import them
    from diffusers import DiffusionPipeline, UNet2DConditionModel

PROJECTIONS = ("attn2.to_k", "attn2.to_v")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEXT_PARTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))


def load_pipeline(
    model: str,
    revision: str | None,
    *,
    device: torch.device,
    precision: str,
    variant: str | None = None,
    scheduler: str = OWN,
    key: str = "",
) -> DiffusionPipeline:
    """Load a base from a folder or the hub: weights as safetensors only, no safety checker, watermark or progress bar.

    `variant` (fp16) picks the weight files of that name where a part has them; `scheduler` (a key of
    `lethe.schedulers.SCHEDULERS`) replaces the base's own, keeping its noise schedule and what the U-Net predicts.
    `key`, where the configuration names the base, stands in messages.

    Raises ValueError for an index that names code of other packages (`check_index`), for what is no base that draws
    from text alone (`base_problem`), for parts that are not whole (`lethe.loading`), and for a scheduler that does not
    draw with this base.
    """
    import diffusers

    folder = base_folder(model, revision, variant=variant, key=key)
    model = f"{key}: {model}" if key else model
    index = _checked_index(model, folder, variant)
    text = _load_text(model, folder, index, precision=precision, variant=variant)
    parts: dict = {name: None for name in UNUSED if name in index}  # they draw nothing
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    for (tokenizer, encoder), words, network in zip(TEXT_PARTS, text.tokenizers, text.encoders, strict=False):
        parts |= {tokenizer: words, encoder: network}
    for name, kind in CLASSES.items():
        parts[name] = load_network(
            getattr(diffusers, kind), folder / name, dtype=PRECISIONS[precision], variant=variant, model=model
        )
    try:
        parts["scheduler"] = build_scheduler(read_object(folder / CONFIG), scheduler)
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from None
    with told_of(model, WEIGHTS):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if getattr(pipeline, "watermark", None) is not None:  # SDXL's pipeline draws one where a certain package is found
        pipeline.watermark = None
    return pipeline


def _checked_index(model: str, folder: Path, variant: str | None) -> dict:
    """The index of a base's folder. Raises ValueError as `load_pipeline` does for what its JSON files tell."""
    index = read_object(folder / "model_index.json")
    check_index(model, index)
    for name in parts_of(folder):
        code = f"{index[name][0]}.py"
        if (folder / name / code).is_file():
            raise ValueError(f"{model}: {name} contains custom code in {code}, which is not run; remove the file")
    _check_text_classes(model, tuple(index[part][1] for _, part in TEXT_PARTS if (index.get(part) or [None])[0]))
    if problem := base_problem(folder, variant=variant):
        raise ValueError(f"{model}: {problem}")
    return index


def use_scheduler(pipeline: DiffusionPipeline, name: str) -> None:
    """Sample with another scheduler (a key of SCHEDULERS) from now on, on the pipeline's own noise schedule."""
    own = {**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__}
    pipeline.scheduler = build_scheduler(own, name)


def load_text(
    model: str,
    revision: str | None,
    *,
    device: torch.device,
    precision: str,
    variant: str | None = None,
    key: str = "",
) -> TextEncoders:
    """Load only the text side of a base. Raises ValueError as `load_pipeline` does."""
    folder = base_folder(model, revision, variant=variant, key=key)
    model = f"{key}: {model}" if key else model
    text = _load_text(model, folder, _checked_index(model, folder, variant), precision=precision, variant=variant)
    return TextEncoders(text.tokenizers, tuple(encoder.to(device) for encoder in text.encoders))


def _load_text(model: str, folder: Path, index: Mapping, *, precision: str, variant: str | None) -> TextEncoders:
    """The text side of a base's folder, on the CPU."""
    import transformers

    tokenizers, encoders = [], []
    for tokenizer, encoder in TEXT_PARTS:
        if (index.get(encoder) or [None])[0]:
            kind = getattr(transformers, index[encoder][1])
            network = load_network(kind, folder / encoder, dtype=PRECISIONS[precision], variant=variant, model=model)
            encoders.append(network)
            tokenizers.append(load_tokenizer(folder / tokenizer, network.config, model=model))
    return TextEncoders(tuple(tokenizers), tuple(encoders))


def text_encoders(pipeline: DiffusionPipeline) -> TextEncoders:
    """The text side of a loaded pipeline. Raises ValueError as `load_text` does."""
    pairs = [
        (getattr(pipeline, tokenizer, None), getattr(pipeline, encoder, None)) for tokenizer, encoder in TEXT_PARTS
    ]
    pairs = [pair for pair in pairs if pair[1] is not None]
    _check_text_classes(type(pipeline).__name__, tuple(type(encoder).__name__ for _, encoder in pairs))
    return TextEncoders(tuple(tokenizer for tokenizer, _ in pairs), tuple(encoder for _, encoder in pairs))


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


def cross_attention_projections(unet: UNet2DConditionModel) -> dict[str, nn.Linear]:
    """The modules `attn2.to_k` and `attn2.to_v` by name: down blocks, up blocks, middle block.

    Raises ValueError when there is none, or when they read text states of different widths.
    """
    found = {name: module for name, module in unet.named_modules() if name.endswith(PROJECTIONS)}
    widths = {module.in_features for module in found.values()}
    if len(widths) != 1:
        raise ValueError(f"cross_attention_projections: expected text states of one width; found {sorted(widths)}")
    return found


@torch.no_grad()
def set_projections(unet: UNet2DConditionModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights `[out, d]` into the modules of `cross_attention_projections` with those names, in place."""
    for name, weight in weights.items():
        unet.get_submodule(name).weight.copy_(weight)


def describe(model: str, revision: str | None, *, variant: str | None = None, key: str = "") -> dict:
    """Facts of a base read from its JSON files alone: pipeline class, text width, window, what the U-Net predicts."""
    facts = {
        "pipeline": ("model_index.json", "_class_name"),
        "cross_attention_dim": ("unet/config.json", "cross_attention_dim"),
        "window": ("text_encoder/config.json", "max_position_embeddings"),
    }
    folder, found = base_folder(model, revision, variant=variant, key=key), {}
    for fact, (name, key) in facts.items():
        content = read_object(folder / name)
        if key not in content:
            raise ValueError(f"{model}: {name} has no {key!r}; a base must be a pipeline as diffusers saves it")
        found[fact] = content[key]
    scheduler = read_object(folder / CONFIG)
    return found | {"prediction_type": scheduler.get("prediction_type", "epsilon")}


def _is_projection(weight: str) -> bool:
    return weight.removesuffix(".weight").endswith(PROJECTIONS)


def _check_text_classes(base: str, classes: tuple[str, ...]) -> None:
    if problem := text_problem(classes):
        raise ValueError(f"{base} {problem}")


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
        digest = hashlib.sha256()
        for short, (path, name) in sorted(where.items()):
            with open_tensors(path) as file:
                tensor = file.get_tensor(name)
            if tensor.is_floating_point():  # position ids come and go between versions
                digest.update(f"{short}\0{list(tensor.shape)}\0".encode())
                digest.update(tensor.float().contiguous().numpy())
        found[component] = digest.hexdigest()
    return found
