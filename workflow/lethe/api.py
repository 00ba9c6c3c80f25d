"""Erase, draw and measure from Python: what the workflow does, on a pipeline in memory."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lethe.bases.base import Base
from lethe.bases.devices import CPU, pick_device
from lethe.bases.pipeline import load_pipeline, use_scheduler
from lethe.bases.sampling import sample_rows
from lethe.bases.text import encode_prompts
from lethe.bases.weights import weights_hash_of
from lethe.config.resolve import anchor_image_settings, image_settings, mask_settings
from lethe.config.schema import defaults_of
from lethe.edits.edit import Edit
from lethe.edits.low_rank import LowRank
from lethe.erasure.artefacts import draw_images
from lethe.erasure.masks import concept_masks
from lethe.erasure.moments import Moment, concept_moments, second_moment
from lethe.files.tensors import read_tensors, write_tensors
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import read_templates, template_file
from lethe.measures.stored import with_columns
from lethe.plugins import Manifest, kinds, manifest
from lethe.records.code import code_hash
from lethe.records.records import what_made, workspace_of

Images = Sequence[np.ndarray]


def load(
    model: str | Path,
    revision: str | None = None,
    *,
    variant: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> DiffusionPipeline:
    """A base from a folder or the hub, all its parts in one precision, on the device.

    Raises ValueError as `lethe.bases.pipeline.load_pipeline` does.
    """
    return load_pipeline(str(model), revision, variant=variant, device=pick_device(device), precision=precision)


def erase(
    pipeline: DiffusionPipeline,
    concepts: Mapping[str, str] | Sequence[Concept],
    method: str = "mace",
    *,
    seed: int = 2024,
    images: Mapping[str, Any] | None = None,
    masks: Mapping[str, Any] | None = None,
    templates: Mapping[str, Any] | None = None,
    workspace: Path | None = None,
    **settings: Any,
) -> Edit:
    """Make an edit that erases concepts together; the pipeline itself stays as it is until `Edit.install`.

    Args:
        concepts: names with what each should mean afterwards (objects), or `Concept`s.  method: a kind of method.
        seed: of what is drawn and trained.  images, masks, templates: how training images are drawn, where in them a
            concept is, which prompts train, as in the sections of the configuration; only what differs from its
            defaults.  workspace: a folder for methods that leave checkpoints.
        settings: those of the method, only what differs from its defaults. A prior is a list of texts, or a Moment.
    Returns: an edit, with a record of what made it.
    Raises: ValueError on an unknown method or setting, and as the method does.
    """
    chosen = [Concept(n, "object", a) for n, a in concepts.items()] if isinstance(concepts, Mapping) else list(concepts)
    said = _manifest("methods", method)
    priors = said.entries_of("priors")  # which are texts here
    given = settings_of(said, {key: value for key, value in settings.items() if key not in priors})
    base = Base.of_pipeline(pipeline)
    reads = {key: _moment(base, settings.get(key)) for key in priors}
    sections = {"images": images or {}, "masks": masks or {}, "templates": templates or {}}
    sections = {name: defaults_of(name, section) for name, section in sections.items()}
    reads |= _artefacts(base, chosen, said, given, reads, sections, seed)
    module = importlib.import_module(said.module)
    told = given | ({"seed": seed} if said.more.get("draws") else {})
    record = _record(base, said, chosen, given, seed, sections, {key: reads[key] for key in priors})
    checkpoints = None if workspace is None else workspace_of(record, workspace)
    if "adapters" in said.reads:
        reads["adapters"] = [_adapter(module, base, concept, told, reads, checkpoints) for concept in chosen]
    edit = module.erase(base, chosen, told, reads, checkpoints)
    edit.record.update(record)
    return edit


def settings_of(said: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """A plug-in's settings with its defaults. Raises ValueError for one that it has not, or that is missing."""
    known = said.settings["properties"]
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{said.name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    whole = defaults_of(said.settings, given)
    if missing := [
        (name, told) for name, told in _missing(whole, said.settings) if name not in said.entries_of("priors")
    ]:
        name, told = missing[0]
        raise ValueError(f"{said.name} needs the setting {name!r}: {told}")
    return whole


def _missing(settings: Mapping[str, Any], schema: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, str]]:
    """Settings, those of groups too, that have no default and are not there, each with what it means."""
    for name, rule in schema["properties"].items():
        if name not in settings and name in schema["required"]:
            yield f"{group}{name}", rule["description"]
        elif "properties" in rule and isinstance(settings[name], Mapping):
            yield from _missing(settings[name], rule, f"{group}{name}.")


def sample(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int] | None = None,
    *,
    scheduler: str = "own",
    steps: int = 50,
    guidance: float = 7.5,
    batch: int = 8,
) -> list[np.ndarray]:
    """One image, uint8 `[h, w, 3]`, for each prompt, drawn from its own seed (by default 0, 1, ...).

    Raises ValueError as `lethe.bases.sampling.sample_rows` does.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    rows = pd.DataFrame({"prompt": list(prompts), "evaluation_seed": list(seeds)}).rename_axis("row")
    own = pipeline.scheduler
    use_scheduler(pipeline, scheduler)
    try:
        return sample_rows(pipeline, rows, steps=steps, guidance=guidance, batch=batch)
    finally:
        pipeline.scheduler = own


def measure(
    images: Images, prompts: Sequence[str] | None = None, kind: str = "clip", *, device: str = "auto", **settings: Any
) -> pd.DataFrame:
    """What a measure computes of each image (uint8 `[h, w, 3]`), a row for each; of its prompt too, where there is one.

    `settings` are those of the measure, such as `model` of `clip`. Raises ValueError as `settings_of` and the measure.
    """
    said = _manifest("measures", kind)
    module = importlib.import_module(said.module)
    model = module.load(settings_of(said, settings), pick_device(device))
    names = [f"image {k}" for k in range(len(images))]
    rows = pd.DataFrame({"name": names} if prompts is None else {"prompt": list(prompts)}).rename_axis("row")
    columns = module.measure(model, iter(images), rows)
    return with_columns(rows, columns)


def recognised(images: Images, classes: Sequence[str], *, prompt: str = "a photo of the {}", **clip: Any) -> list[str]:
    """Which of the classes CLIP takes each image for (`clip-top1@1`); `clip` are the settings of that measure."""
    from lethe.measures.clip import image_embeddings, load, text_embeddings
    from lethe.tables.protocols import predicted_classes

    judge = load(settings_of(manifest("measures", "clip"), clip), pick_device("auto"))
    texts = text_embeddings(judge, [prompt.replace("{}", name) for name in classes])
    embedded = image_embeddings(judge, iter(images), [f"image {k}" for k in range(len(images))])
    return [classes[index] for index in predicted_classes(embedded, texts)]


def _manifest(room: str, name: str) -> Manifest:
    if name not in kinds(room):
        raise ValueError(f"there is no {room.removesuffix('s')} {name!r}; there are {', '.join(kinds(room))}")
    return manifest(room, name)


def _moment(base: Base, texts: Sequence[str] | Moment | None) -> Moment | None:
    if texts is None:
        return None
    moment = texts if isinstance(texts, Moment) else second_moment(encode_prompts(base.text, list(texts)))
    return Moment(moment.matrix.to(CPU), moment.tokens)  # where the concepts' moments are


def _artefacts(
    base: Base,
    concepts: Sequence[Concept],
    said: Manifest,
    settings: Mapping[str, Any],
    priors: Mapping[str, Moment | None],
    sections: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> dict[str, list]:
    """What a method reads of each concept, made in memory, each once."""
    wanted = set(said.reads) - ({"loras"} if settings.get("fusion") == "none" else set())
    wanted -= {"adapters"}  # each is made of what the method reads besides
    found: dict[str, list] = {name: [] for name in wanted}
    for concept in concepts:
        used = read_templates(Path(template_file(sections["templates"], concept.kind)))[: sections["templates"]["used"]]
        made: dict[str, Any] = {}
        if wanted & {"moments", "loras"}:
            made["moments"] = concept_moments(base.text, concept.name, concept.anchor, used)
        if wanted & {"images", "masks", "loras"}:
            drawing = image_settings(sections["images"], concept.kind)
            _, made["images"] = draw_images(base.pipeline, concept.name, drawing, seed=seed)
        if wanted & {"masks", "loras"}:
            where = mask_settings(sections["masks"], concept.kind)
            made["masks"] = list(concept_masks(made["images"], concept.name, where, device=base.device)[0])
        if wanted & {"anchor_images", "anchor_captions"}:
            made["anchor_captions"], made["anchor_images"] = _anchor_images(base, concept, sections["images"], seed)
        if "loras" in wanted:
            made["loras"] = _lora(base, concept, made, settings, priors, sections, used, seed)
        for name in wanted:
            found[name].append(made[name])
    return found


def _anchor_images(
    base: Base, concept: Concept, section: Mapping[str, Any], seed: int
) -> tuple[list[str], list[np.ndarray]]:
    """Prompts of a concept's anchor, and an image of each."""
    drawing = anchor_image_settings(section, concept.kind)
    if isinstance(drawing.get("prompts"), str):
        drawing["prompts"] = read_templates(Path(drawing["prompts"]))
    rows, images = draw_images(base.pipeline, concept.anchor, drawing, seed=seed)
    return list(rows["prompt"]), images


def _adapter(
    module: ModuleType,
    base: Base,
    concept: Concept,
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None,
) -> dict[str, Tensor]:
    """What a method trains for one concept; in a workspace those that are done stay until the edit is there."""
    own = None if workspace is None else workspace / concept.slug
    done = None if own is None else own / "adapter.safetensors"
    if done is not None and done.exists():
        return read_tensors(done)[0]
    with torch.enable_grad():
        tensors, _ = module.train_adapter(base, concept, settings, reads, own)
    if done is not None:
        write_tensors(done, tensors, {})
    return tensors


def _lora(
    base: Base,
    concept: Concept,
    made: Mapping[str, Any],
    settings: Mapping[str, Any],
    priors: Mapping[str, Moment | None],
    sections: Mapping[str, Mapping[str, Any]],
    templates: Sequence[str],
    seed: int,
) -> dict[str, LowRank]:
    """A concept's LoRA, trained on the base refined for it alone, an update of each projection."""
    from lethe.methods.mace.loras import concept_lora

    preserved = None
    if settings["lora"]["preservation_weight"] > 0:
        preserved = _anchor_images(base, concept, sections["images"], seed)
    with torch.enable_grad():
        state, _ = concept_lora(
            base.pipeline,
            concept.name,
            {**settings, "seed": seed},
            images=made["images"],
            masks=made["masks"],
            templates=templates,
            moments=[made["moments"]],
            priors=[priors.get("prior"), priors.get("domain_prior")],
            preserved_images=preserved,
            anchor=concept.anchor,
        )
    names = sorted({name.split(".lora")[0] for name in state})
    return {n: LowRank(state[f"{n}.lora_A.weight"], state[f"{n}.lora_B.weight"]) for n in names}


def _record(
    base: Base,
    said: Manifest,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    seed: int,
    sections: Mapping[str, Any],
    priors: Mapping[str, Moment | None],
) -> dict[str, Any]:
    """What made an edit, as the header of its file says it; of priors the SHA-256 of their matrices."""
    weights = base.weights_sha256
    fingerprint = hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
    return what_made(
        "edit",
        {"kind": said.name, "method": dict(settings), "seed": seed, **sections},
        code=code_hash(said.module),
        inputs={key: [weights_hash_of({key: prior.matrix})] for key, prior in priors.items() if prior is not None},
        method=said.name,
        base={**base.about, "fingerprint": fingerprint, "weights_sha256": weights},
        concepts=[concept.name for concept in concepts],
    )
