"""What the JSON files of models and the names of their other files tell of whether they can be used, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.bases.folder import NETWORKS, TOKENIZERS, UNUSED, lacking_of_base, lacking_of_model, read_object

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
TEXT_CLASSES = {  # of the text encoders, and the families that have them
    ("CLIPTextModel",): "Stable Diffusion 1.x and 2.x",
    ("CLIPTextModel", "CLIPTextModelWithProjection"): "Stable Diffusion XL",
}
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
# Inputs of a U-Net besides noisy latents, timestep and text, and what such a U-Net is made for.
INPUTS = {
    "time_cond_proj_dim": "the scale of guidance, as distilled models of latent consistency do",
    "class_embed_type": "class labels or images",
    "num_class_embeds": "class labels or noise levels, as upscalers do",
    "encoder_hid_dim_type": "images or states that need another projection",
}


def base_problem(folder: Path, *, variant: str | None = None) -> str | None:
    """Why a folder is no base that draws from text alone; None if nothing in its files speaks against it.

    Raises ValueError for JSON files that are none.
    """
    index = read_object(folder / "model_index.json")
    if problem := _index_problem(index):
        return problem
    if file := next(lacking_of_base(folder, variant), None):
        return _lacking(file, "diffusers")
    configs = {name: read_object(folder / name / "config.json") for name in NETWORKS if _part(index, name)}
    return _class_problem(index, configs) or _shape_problem(configs)


def _lacking(file: str, library: str) -> str:
    if file.endswith(".safetensors"):
        mend = f"name a model in {library} format whose weights are safetensors"
        return f"it does not load (the folder lacks {file}); download all of it, or {mend}"
    return f"it does not load (the folder lacks {file}); download all of it"


def _part(index: Mapping[str, Any], name: str) -> str | None:
    """The class of a part that a pipeline's index lists."""
    kind = index.get(name)
    return kind[1] if isinstance(kind, list) and len(kind) == 2 and kind[0] else None


def _index_problem(index: Mapping[str, Any]) -> str | None:
    if (own := index.get("_class_name")) not in PIPELINES:
        drawing = "a base must draw from text alone"
        return f"model_index.json names the pipeline {own!r}, and {drawing}; name one of {' or '.join(PIPELINES)}"
    encoders = tuple(kind for name in ("text_encoder", "text_encoder_2") if (kind := _part(index, name)))
    if problem := text_problem(encoders):
        return f"it {problem}"
    needed = [*CLASSES, "scheduler", "text_encoder", *TOKENIZERS[: len(encoders)]]
    if lacking := next((name for name in needed if not _part(index, name)), None):
        return f"model_index.json lists no {lacking}; name a whole pipeline as diffusers saves it"
    known = (*NETWORKS, *TOKENIZERS, *UNUSED, "scheduler")
    if other := next((name for name in index if _part(index, name) and name not in known), None):
        return f"model_index.json lists a part {other!r}, which {own} does not have; take it out"
    return None


def text_problem(classes: Sequence[str]) -> str | None:
    """Why text encoders of these classes are of no family that is known here; None if they are."""
    if tuple(classes) in TEXT_CLASSES:
        return None
    told = " and ".join(classes) or "no encoder"
    return f"reads text with {told}; a base must be of one of the families {', '.join(TEXT_CLASSES.values())}"


def _class_problem(index: Mapping[str, Any], configs: Mapping[str, Mapping]) -> str | None:
    """Parts of other classes than the index, or the family, says."""
    for name, kind in CLASSES.items():
        for found in (_part(index, name), configs[name].get("_class_name", kind)):
            if found != kind:
                return f"its {name} is of the class {found}; a base's must be {kind}"
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs and (problem := type_problem(configs[name], _part(index, name))):
            return f"its {name} {problem}"
    return None


def _shape_problem(configs: Mapping[str, Mapping]) -> str | None:
    """Parts that do not fit each other, or need more than text."""
    unet, vae = configs["unet"], configs["vae"]
    latents = vae.get("latent_channels", 4)
    for key in ("in_channels", "out_channels"):
        if (channels := unet.get(key, 4)) != latents:
            return (
                f"its U-Net has {channels} {key} where the autoencoder's latents have {latents}, as for inpainting, "
                "editing or upscaling images; name a base that draws from text alone"
            )
    for key, what in INPUTS.items():
        if unet.get(key) is not None:
            return f"its U-Net reads {what} ({key} is {unet[key]!r}); name a base that draws from text alone"
    widths = [_text(configs[name]).get("hidden_size", 512) for name in configs if name.startswith("text_encoder")]
    if (reads := unet.get("cross_attention_dim", 1280)) != sum(widths):
        told = " + ".join(map(str, widths))
        return f"its U-Net reads text states {reads} wide and its text encoders make {told}; they are of two bases"
    if (unet.get("addition_embed_type") == "text_time") != (len(widths) == 2):
        return "its U-Net and its text encoders are of two families (addition_embed_type); name a whole pipeline"
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None or vae.get("shift_factor"):
        return "its autoencoder shifts latents (latents_mean, latents_std, shift_factor), which training does not do"
    return None


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a text encoder's configuration about text: all, unless it is that of a whole CLIP."""
    return config["text_config"] if isinstance(config.get("text_config"), dict) else config


# Types that a configuration may name for a class of transformers; a text encoder may lie in the files of a whole CLIP.
TYPES = {
    "CLIPModel": ("clip",),
    "CLIPTextModel": ("clip_text_model", "clip"),
    "CLIPTextModelWithProjection": ("clip_text_model", "clip"),
    "CLIPSegForImageSegmentation": ("clipseg",),
    "GroundingDinoForObjectDetection": ("grounding-dino",),
    "SamModel": ("sam",),
    "ImageClassification": ("resnet", "vit"),  # of several classes
}


def type_problem(config: Mapping[str, Any], kind: str) -> str | None:
    """Why a configuration of transformers is not that of a class; None if it is."""
    found = config.get("model_type")
    if found not in TYPES[kind]:
        return f"is of the type {found!r}, and {kind} is wanted here, of the type {TYPES[kind][0]!r}; name such a model"
    return None


def model_problem(folder: Path, kind: str) -> str | None:
    """Why a folder is no single model of a class of transformers (a key of TYPES); None if nothing speaks against it.

    Raises ValueError for JSON files that are none.
    """
    if problem := type_problem(read_object(folder / "config.json"), kind):
        return f"the model {problem}"
    if file := next(lacking_of_model(folder), None):
        return _lacking(file, "transformers")
    return None
