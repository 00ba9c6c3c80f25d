"""Bases: diffusers pipelines to edit, their parts, and their cross-attention projections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lethe.text import TextEncoders

if TYPE_CHECKING:  # diffusers and transformers take seconds to import: the functions that load models import them
    from diffusers import DiffusionPipeline, UNet2DConditionModel

PROJECTIONS = ("attn2.to_k", "attn2.to_v")
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEXT_PARTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
TEXT_CLASSES = {  # of the text encoders, and the families that have them
    ("CLIPTextModel",): "Stable Diffusion 1.x and 2.x",
    ("CLIPTextModel", "CLIPTextModelWithProjection"): "Stable Diffusion XL",
}
SCHEDULERS = {"ddim": "DDIMScheduler", "dpm-solver++": "DPMSolverMultistepScheduler"}


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; other names are taken as they are."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def load_pipeline(
    model: str, revision: str | None, *, device: torch.device, precision: str, scheduler: str | None = None
) -> DiffusionPipeline:
    """Load a base from a folder or the hub: no safety checker, no progress bar, weights as safetensors only.

    `scheduler` (a key of SCHEDULERS) replaces the base's own, keeping its noise schedule.
    """
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        model,
        revision=revision,
        dtype=PRECISIONS[precision],
        use_safetensors=True,
        **_without_safety_checker(model),
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        use_scheduler(pipeline, scheduler)
    return pipeline


def use_scheduler(pipeline: DiffusionPipeline, name: str) -> None:
    """Sample with another scheduler (a key of SCHEDULERS) from now on, on the pipeline's own noise schedule."""
    import diffusers

    pipeline.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(pipeline.scheduler.config)


def load_text(model: str, revision: str | None, *, device: torch.device, precision: str) -> TextEncoders:
    """Load only the text side of a base. Raises ValueError for a base of another family than TEXT_CLASSES tells."""
    import transformers

    index = json.loads(_base_file(model, revision, "model_index.json").read_text(encoding="utf-8"))
    parts = [pair for pair in TEXT_PARTS if (index.get(pair[1]) or [None])[0]]
    classes = tuple(index[encoder][1] for _, encoder in parts)
    _check_text_classes(model, classes)
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(model, subfolder=tokenizer, revision=revision)
        for tokenizer, _ in parts
    ]
    encoders = [
        getattr(transformers, name)
        .from_pretrained(model, subfolder=encoder, revision=revision, dtype=PRECISIONS[precision], use_safetensors=True)
        .to(device)
        .eval()
        for name, (_, encoder) in zip(classes, parts, strict=True)
    ]
    return TextEncoders(tuple(tokenizers), tuple(encoders))


def text_encoders(pipeline: DiffusionPipeline) -> TextEncoders:
    """The text side of a loaded pipeline. Raises ValueError as `load_text` does."""
    pairs = [
        (getattr(pipeline, tokenizer, None), getattr(pipeline, encoder, None)) for tokenizer, encoder in TEXT_PARTS
    ]
    pairs = [pair for pair in pairs if pair[1] is not None]
    _check_text_classes(type(pipeline).__name__, tuple(type(encoder).__name__ for _, encoder in pairs))
    return TextEncoders(tuple(tokenizer for tokenizer, _ in pairs), tuple(encoder for _, encoder in pairs))


def projection_weights(model: str, revision: str | None) -> dict[str, torch.Tensor]:
    """The weights of the same modules `[out, d]` on the CPU, read from the U-Net's file without building the U-Net."""
    from safetensors import safe_open

    with safe_open(_base_file(model, revision, f"unet/{UNET_WEIGHTS}"), "pt") as file:
        names = [name for name in file.keys() if name.removesuffix(".weight").endswith(PROJECTIONS)]  # noqa: SIM118
        return {name.removesuffix(".weight"): file.get_tensor(name) for name in names}


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


def describe(model: Path) -> dict:
    """Facts of a base folder read from its JSON files alone: pipeline class, text widths, window, prediction type."""
    parts = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    unet = json.loads((model / "unet" / "config.json").read_text(encoding="utf-8"))
    text = json.loads((model / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    scheduler = json.loads((model / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return {
        "pipeline": parts["_class_name"],
        "cross_attention_dim": unet["cross_attention_dim"],
        "window": text["max_position_embeddings"],
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
    }


def _base_file(model: str, revision: str | None, name: str) -> Path:
    """A file of a base: in its folder, or downloaded from the hub."""
    if Path(model).is_dir():
        return Path(model) / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, name, revision=revision))


def _check_text_classes(base: str, classes: tuple[str, ...]) -> None:
    if classes not in TEXT_CLASSES:
        raise ValueError(
            f"{base} reads text with {' and '.join(classes) or 'no encoder'}; a base must be of one of the families "
            f"{', '.join(TEXT_CLASSES.values())}"
        )


def _without_safety_checker(model: str) -> dict:
    index = Path(model) / "model_index.json"
    if index.exists() and "safety_checker" not in json.loads(index.read_text(encoding="utf-8")):
        return {}
    return {"safety_checker": None}
