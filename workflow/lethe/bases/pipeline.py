"""Bases: diffusers pipelines to edit, their parts, and their cross-attention projections."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lethe.bases.checks import CLASSES, base_problem, text_problem
from lethe.bases.folder import UNUSED, base_folder, check_index, parts_of, read_object
from lethe.bases.loading import WEIGHTS, load_network, load_tokenizer, told_of
from lethe.bases.schedulers import CONFIG, OWN, build_scheduler, config_of
from lethe.bases.text import TextEncoders

if TYPE_CHECKING:  # diffusers and transformers take seconds to import: the functions that load models import them
    from diffusers import DiffusionPipeline

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

    `variant` (fp16) picks the weight files of that name where a part has them; `scheduler` (a key of `SCHEDULERS`)
    replaces the base's own, keeping its noise schedule and what the U-Net predicts. `key`, where the configuration
    names the base, stands in messages.

    Raises ValueError for an index that names code of other packages (`check_index`), for what is no base that draws
    from text alone (`base_problem`), for parts that are not whole (`lethe.bases.loading`), and for a scheduler that
    does not draw with this base.
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
    pipeline.scheduler = build_scheduler(config_of(pipeline.scheduler), name)


def offload(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """Let each part of a pipeline be on the device while it runs, and on the CPU before and behind; for drawing alone.

    What changes weights, such as an edit, comes before. The images stay the same.
    Raises ValueError, naming the key `offload`, for the CPU itself, and without the package accelerate.
    """
    if device.type == "cpu":
        raise ValueError(
            f"offload is true, and models run on the CPU of {platform.node()}, so there is nowhere to move parts to; "
            "set offload to false, or run where there is a GPU"
        )
    try:
        pipeline.enable_model_cpu_offload(device=device)
    except ImportError as error:
        told = f"offload needs a package ({str(error).rstrip('.')})"
        raise ValueError(f"{told}; install accelerate, or set offload to false") from None


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


def _check_text_classes(base: str, classes: tuple[str, ...]) -> None:
    if problem := text_problem(classes):
        raise ValueError(f"{base} {problem}")
