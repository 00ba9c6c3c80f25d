"""Bases: diffusers pipelines to edit, their parts, and their cross-attention projections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lethe.model_folders import UNET_WEIGHTS, base_file, check_index, parts_of, read_part, weight_files, weight_map
from lethe.tensor_files import check_finite, open_tensors
from lethe.text import TextEncoders

if TYPE_CHECKING:  # diffusers and transformers take seconds to import: the functions that load models import them
    from diffusers import DiffusionPipeline, UNet2DConditionModel

PROJECTIONS = ("attn2.to_k", "attn2.to_v")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEXT_PARTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
TEXT_CLASSES = {  # of the text encoders, and the families that have them
    ("CLIPTextModel",): "Stable Diffusion 1.x and 2.x",
    ("CLIPTextModel", "CLIPTextModelWithProjection"): "Stable Diffusion XL",
}
SCHEDULERS = {"ddim": "DDIMScheduler", "dpm-solver++": "DPMSolverMultistepScheduler"}


def load_pipeline(
    model: str,
    revision: str | None,
    *,
    device: torch.device,
    precision: str,
    variant: str | None = None,
    scheduler: str | None = None,
) -> DiffusionPipeline:
    """Load a base from a folder or the hub: weights as safetensors only, no safety checker, watermark or progress bar.

    `variant` (fp16) picks the weight files of that name; `scheduler` (a key of SCHEDULERS) replaces the base's own,
    keeping its noise schedule and what the U-Net predicts.

    Raises ValueError for an index that names code of other packages (`check_index`), and for a base that has no weights
    as safetensors or does not load for another reason.
    """
    import diffusers

    index = read_part(model, revision, "model_index.json")
    check_index(model, index)
    with _loading(model):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            model,
            revision=revision,
            variant=variant,
            dtype=PRECISIONS[precision],
            use_safetensors=True,
            **({"safety_checker": None} if "safety_checker" in index else {}),
        ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if getattr(pipeline, "watermark", None) is not None:  # SDXL's pipeline draws one where a certain package is found
        pipeline.watermark = None
    if scheduler is not None:
        use_scheduler(pipeline, scheduler)
    return pipeline


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """Turn what the libraries raise while they load a model into a sentence that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        mend = "name a model in diffusers format whose weights are safetensors"
        raise ValueError(f"{model}: it does not load ({reason}); {mend}") from None


def use_scheduler(pipeline: DiffusionPipeline, name: str) -> None:
    """Sample with another scheduler (a key of SCHEDULERS) from now on, on the pipeline's own noise schedule."""
    import diffusers

    pipeline.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(pipeline.scheduler.config)


def load_text(
    model: str, revision: str | None, *, device: torch.device, precision: str, variant: str | None = None
) -> TextEncoders:
    """Load only the text side of a base.

    Raises ValueError as `load_pipeline` does, and for a base of another family than TEXT_CLASSES tells.
    """
    import transformers

    index = read_part(model, revision, "model_index.json")
    check_index(model, index)
    parts = [pair for pair in TEXT_PARTS if (index.get(pair[1]) or [None])[0]]
    classes = tuple(index[encoder][1] for _, encoder in parts)
    _check_text_classes(model, classes)
    with _loading(model):
        tokenizers = [
            transformers.CLIPTokenizer.from_pretrained(model, subfolder=tokenizer, revision=revision)
            for tokenizer, _ in parts
        ]
        encoders = [
            getattr(transformers, name)
            .from_pretrained(
                model,
                subfolder=encoder,
                revision=revision,
                variant=variant,
                dtype=PRECISIONS[precision],
                use_safetensors=True,
            )
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


def projection_weights(model: str, revision: str | None, *, variant: str | None = None) -> dict[str, torch.Tensor]:
    """The weights of the cross-attention projections `[out, d]` by module name, on the CPU, as they are stored.

    Read from the U-Net's file, or those of its shards that hold them, without building the U-Net. Raises ValueError,
    naming the file, when it is no safetensors file or a projection is not finite.
    """
    weights = {}
    for path in _projection_files(model, revision, variant):
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


def describe(model: str, revision: str | None) -> dict:
    """Facts of a base read from its JSON files alone: pipeline class, text width, window, what the U-Net predicts."""
    facts = {
        "pipeline": ("model_index.json", "_class_name"),
        "cross_attention_dim": ("unet/config.json", "cross_attention_dim"),
        "window": ("text_encoder/config.json", "max_position_embeddings"),
    }
    found = {}
    for fact, (name, key) in facts.items():
        content = read_part(model, revision, name)
        if key not in content:
            raise ValueError(f"{model}: {name} has no {key!r}; a base must be a pipeline as diffusers saves it")
        found[fact] = content[key]
    scheduler = read_part(model, revision, "scheduler/scheduler_config.json")
    return found | {"prediction_type": scheduler.get("prediction_type", "epsilon")}


def _is_projection(weight: str) -> bool:
    return weight.removesuffix(".weight").endswith(PROJECTIONS)


def _projection_files(model: str, revision: str | None, variant: str | None) -> list[Path]:
    """The U-Net's weights, or those of its shards that hold projections; an index counts first, as in diffusers."""
    from huggingface_hub.errors import EntryNotFoundError

    part = f".{variant}" if variant else ""
    try:
        path = base_file(model, revision, f"unet/{UNET_WEIGHTS}.safetensors.index{part}.json")
        files = sorted({file for name, file in weight_map(path).items() if _is_projection(name)})
    except (FileNotFoundError, EntryNotFoundError):
        files = [f"{UNET_WEIGHTS}{part}.safetensors"]
    return [base_file(model, revision, f"unet/{file}") for file in files]


def _check_text_classes(base: str, classes: tuple[str, ...]) -> None:
    if classes not in TEXT_CLASSES:
        raise ValueError(
            f"{base} reads text with {' and '.join(classes) or 'no encoder'}; a base must be of one of the families "
            f"{', '.join(TEXT_CLASSES.values())}"
        )


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
