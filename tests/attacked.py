"""What probes are tested with: judges that need no network, a workspace, and small settings of every probe."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import DiffusionPipeline

from lethe.attacks.judges import Judge, Target
from lethe.attacks.trials import Trials
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.pipeline import text_encoders
from lethe.config.schema import defaults_of
from lethe.edits.edit import Edit
from lethe.edits.guidance import GuidanceEdit
from lethe.edits.weights import WeightEdit
from lethe.inputs.concepts import Concept
from lethe.plugins import manifest

SHIP = Concept("ship", "object", "ground", ("vessel", "boat"))
RUN_NAMES = ["ship", '$(touch pwned)\'s "cat"', "dog", "horse", "yeti"]  # what the judges of a run tell apart
CLASSES = ("ship", "bird", "cat")
# Budgets under which a probe of a tiny pipeline takes a second, and still does all that it does.
SMALL: dict[str, dict[str, Any]] = {
    "name-ladder": {"paraphrases": ["{}"], "styles": []},
    "unlearndiffatk": {"searches": 2, "times": 2, "steps": 1, "controls": 2, "tokens": 2},
    "concept-inversion": {"images": 2, "steps": 2, "batch": 2, "learning_rates": [0.01, 0.1], "start": "a picture"},
    "vocabulary-sweep": {"tokens": 3, "steps": 1, "kept": 1},
    "noise": {"steps": 4, "scales": [0, 1], "factors": [1.0, 1.04]},
    "completion": {"handovers": [0, 1, 2], "reported_at": 1},
    "ring-a-bell": {
        "pairs": ["a photo of the {}", "the {}"],
        "tokens": 3,
        "population": 6,
        "generations": 2,
        "kept": 2,
    },
    "side-effects": {"near": 1, "far": 1, "rest": 1, "seeds": 2},
    "relearning": {"images": 2, "steps": [0, 1, 2], "batch": 2, "reported_at": 2, "learning_rate": 1e-3},
}


def by_colour(images: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities by how red, green and blue images are: whatever they are, they differ from image to image."""
    means = np.stack([image.reshape(-1, 3).mean(0) for image in images]).astype(float) / 16
    exponents = np.exp(means - means.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def workspace_for(
    name: str = "ship", *, at: float = 0.0, steps: int = 2, folder: Path | None = None, judge: Judge | None = None
) -> Workspace:
    """Two seeds to search with, two to report with, two steps an image."""
    judge = judge or Judge(CLASSES, by_colour)
    sampling = dict(scheduler="ddim", steps=steps, guidance=3.0, batch=4)
    target = Target(judge, name, at)
    return Workspace(sampling, "a photo of the {}", target, target, [1, 2], [11, 12], seed=5, folder=folder)


def settings_for(kind: str, **more: Any) -> dict[str, Any]:
    """Small settings of a probe, with all its defaults."""
    return defaults_of(manifest("probes", kind).settings, SMALL[kind] | more)


def edits_for(pipeline: DiffusionPipeline) -> Mapping[str, Edit | None]:
    """Edits of each form that a probe may meet: none, new weights, and rules of guidance of two sorts."""
    weights = dict(pipeline.unet.named_parameters())
    name = next(name for name in weights if name.endswith("attn2.to_v.weight"))
    adapters = [{"prompts": ["ship"], "factor": 1.0}]
    return {
        "none": None,
        "weights": WeightEdit({name: (weights[name] * 0.5).detach().clone()}),
        "guidance": GuidanceEdit("negative-prompt", {"text": "ship", "phrases_cut": 0}),
        "adapters": GuidanceEdit("spm", {"transport": "eq9", "adapters": adapters}, tensors=_adapters(pipeline)),
    }


def attacked_project(project: Path, folder: Path, probes: Mapping[str, Any], named: Sequence[str]) -> Path:
    """A working directory in which an edit of a ship is attacked by the named ones of its `probes`."""
    from emoji_world.models import build_classifier, save_processor

    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        build_classifier(RUN_NAMES, widths=(32, 64)).save_pretrained(folder / "second")
    save_processor(folder / "second")
    (folder / "ghosts.tsv").write_text("object\nyeti\n")
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    task = {"base": "sd", "concepts": ["ship"], "methods": ["uce"], "evaluation": "attacks"}
    config |= {"tasks": {"ships": task}, "tables": {"brought_back": {"tasks": ["ships"]}}, "methods": {}}
    config["suites"], config["priors"] = {}, {}
    config["measures"]["second"] = {"kind": "classifier", "model": "second"}
    config["probes"] = dict(probes)
    config["evaluations"] = {
        "attacks": {
            "probes": list(named),
            "clip": "judge",
            "classifier": "second",
            "classes": {"table": "classes.tsv", "column": "object"},
            "ghosts": {"table": "ghosts.tsv", "attacked": 1},
            "search": [1, 1],
            "report": [11, 12],
            "controls": {"images": 3},
        }
    }
    path.write_text(yaml.safe_dump(config))
    return folder


def _adapters(pipeline: DiffusionPipeline) -> dict[str, Any]:
    from lethe.methods.spm import adapted_layers

    generator, found = torch.Generator().manual_seed(3), {}
    for name, layer in adapted_layers(pipeline.unet).items():
        out, into = layer.weight.shape[:2]
        found[f"{name}.down"] = 0.1 * torch.randn(1, into, generator=generator)
        found[f"{name}.up"] = 0.1 * torch.randn(out, 1, generator=generator)
    return found


def probed(base: Base, kind: str, edit: Edit | None, workspace: Workspace, **settings: Any) -> Trials:
    """The trials of a probe with small settings."""
    import importlib

    module = importlib.import_module(manifest("probes", kind).module)
    return module.probe(base, edit, SHIP, settings_for(kind, **settings), workspace)


def base_of(pipeline: DiffusionPipeline) -> Base:
    assert text_encoders(pipeline)
    return Base.of_pipeline(pipeline, "tiny")
