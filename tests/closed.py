"""Closed-form edits by hand: states as diffusers itself encodes prompts, weights in float64, and planned jobs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import WINDOW
from lethe.bases.unet import cross_attention_projections
from lethe.config.checks import check_config
from lethe.config.planning import read_inputs
from lethe.edits.edit import Edit
from lethe.erasure.moments import Moment
from lethe.inputs.concepts import Concept
from lethe.jobs import Job, Made
from lethe.plan import Plan
from lethe.plugins import manifest
from lethe.steps.job import main

CONCEPTS = [Concept("ship", "object", "the sky"), Concept("P!nk", "style", "art")]
KEPT = ["a bird", "a picture of a person on the ground"]


def settings_of(method: str, **changes: object) -> dict[str, Any]:
    """A method's defaults with changes, those of groups within them."""
    rules = manifest("methods", method).settings["properties"]
    assert changes.keys() <= rules.keys()
    groups = {key: rule["properties"] for key, rule in rules.items() if "properties" in rule}
    chosen = {key: rule["default"] for key, rule in rules.items() if key not in groups}
    chosen |= {key: {name: rule["default"] for name, rule in group.items()} for key, group in groups.items()}
    return chosen | {key: chosen[key] | value if key in groups else value for key, value in changes.items()}


def exact(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline in float64, so that a formula can be told from another by more than rounding."""
    return pipeline.to(torch.float64)


def weights_of(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    return {name: module.weight.detach().clone() for name, module in cross_attention_projections(pipeline.unet).items()}


def state(pipeline: DiffusionPipeline, prompt: str) -> Tensor:
    with torch.no_grad():
        return pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[
            0
        ][0]


def last(pipeline: DiffusionPipeline, prompt: str) -> int:
    return sum(pipeline.tokenizer(prompt, padding="max_length", truncation=True).attention_mask) - 2


def last_state(pipeline: DiffusionPipeline, prompt: str) -> Tensor:
    return state(pipeline, prompt)[last(pipeline, prompt)]


def prior_of(pipeline: DiffusionPipeline, texts: Sequence[str]) -> Moment:
    rows = torch.cat([state(pipeline, text) for text in texts])
    return Moment(sum(torch.outer(row, row) for row in rows), len(rows))


def parts_of(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    """Every tensor of every network."""
    networks = ("unet", "vae", "text_encoder", "text_encoder_2")
    found = {name: getattr(pipeline, name, None) for name in networks}
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in found.items()
        if network is not None
        for name, tensor in network.state_dict().items()
    }


def changed_by(edit: Edit, pipeline: DiffusionPipeline) -> set[str]:
    """The projections that differ while an edit is installed; nothing else may, and all must come back."""
    before = parts_of(pipeline)
    edit.install(pipeline)
    changed = {name for name, tensor in parts_of(pipeline).items() if not torch.equal(tensor, before[name])}
    edit.remove(pipeline)
    after = parts_of(pipeline)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    projections = {f"unet.{name}.weight": name for name in weights_of(pipeline)}
    assert changed <= projections.keys()
    return {projections[name] for name in changed}


def planned(folder: Path, base: Path, method: str, entry: Mapping[str, Any], **more: Any) -> Edit:
    """The edit of a job as the workflow plans it, in a working directory; `more` are sections of the configuration."""
    (folder / "concepts.tsv").write_text("concept\tkind\tanchor\tsynonyms\nship\tobject\tsky\tvessel\n")
    config = {
        "bases": {"sd": {"model": str(base)}},
        "concepts": "concepts.tsv",
        "tasks": {"objects": {"base": "sd", "concepts": ["ship"], "methods": [method]}},
        "methods": {method: dict(entry)},
        "masks": {"segmenter": "full-frame"},
        **more,
    }
    config = check_config(yaml.safe_load(yaml.safe_dump(config)))
    plan = Plan(config, read_inputs(config), locate=lambda model, *_: Path(model))
    job = plan.edit("sd", "objects", method)
    run(job)
    return Edit.load(Path(job.outputs["edit"]))


def run(job: Job) -> None:
    """A planned job, after all whose outputs it reads."""
    for files in job.reads.values():
        for file in files:
            if isinstance(file, Made):
                run(file.job)
    python, _, _, *arguments = shlex.split(job.command)
    assert python == "python"
    main(arguments)


# UCE (Eq. 7, with lambda), token by token, with places from the attention mask

WORDS = ["image of", "photo of", "portrait of", "picture of", "painting of"]
WORDS_OF_STYLES = ["painting by", "art by", "artwork by", "picture by", "style of"]


def prompts_of(concept: Concept, chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every (prompt, prompt of the guide) of a concept."""
    guide = chosen["guide"] if chosen["guide"] is not None else concept.anchor
    prompts = [(concept.name, guide)]
    for before in (WORDS_OF_STYLES if concept.kind == "style" else WORDS) if chosen["expand"] else ():
        with_guide = f"{before} {guide}" if chosen["convention"] == 2025 else guide
        prompts.append((f"{before} {concept.name}", with_guide))
    return prompts


def tokens_of(pipeline: DiffusionPipeline, concept: Concept, chosen: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Every (c, g) of a concept."""
    found = []
    for prompt, towards in prompts_of(concept, chosen):
        c, g = state(pipeline, prompt), state(pipeline, towards)
        at, to = last(pipeline, prompt), last(pipeline, towards)
        if chosen["convention"] == 2025:
            found.append((c[at], g[to]))
            continue
        while at <= WINDOW - 1 and to <= WINDOW - 1:
            found.append((c[at], g[to]))
            at, to = at + 1, to + 1
    return found


def kept_tokens(pipeline: DiffusionPipeline, chosen: Mapping[str, Any]) -> list[Tensor]:
    if chosen["convention"] == 2025:
        return [last_state(pipeline, text) for text in chosen["preserve"]]
    return [token for text in ["", *chosen["preserve"]] for token in state(pipeline, text)]


def scale_of(chosen: Mapping[str, Any], of_prior: int) -> float:
    """The weight of what to preserve, with so many texts of a prior."""
    if chosen["preserve_scale"] is not None:
        return chosen["preserve_scale"]
    return 1.0 if chosen["convention"] == 2025 else max(0.1, 1 / (1 + len(chosen["preserve"]) + of_prior))


def uce_by_loop(
    weight: Tensor,
    tokens: Sequence[tuple[Tensor, Tensor]],
    kept: Sequence[Tensor],
    chosen: Mapping[str, Any],
    scale: float,
) -> Tensor:
    """The closed form of one layer, then one general inverse."""
    left, right = chosen["ridge"] * weight, chosen["ridge"] * torch.eye(weight.shape[1], dtype=torch.float64)
    for c, g in tokens:
        left = left + chosen["erase_scale"] * torch.outer(weight @ g, c)
        right = right + chosen["erase_scale"] * torch.outer(c, c)
    for p in kept:
        left, right = left + scale * torch.outer(weight @ p, p), right + scale * torch.outer(p, p)
    return left @ torch.linalg.inv(right)
