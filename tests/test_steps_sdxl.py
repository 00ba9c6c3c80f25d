"""The steps from moments to samples on an SDXL base, each run as its rule runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffusers import DiffusionPipeline

from conftest import ROOT
from lethe.edits import load_edit
from lethe.files import read_images, rows_as_csv, write_shard
from lethe.moments import load_concept_moments, load_moment
from lethe.suites import rows_digest

LORA = dict(
    **dict(rank=1, steps=2, learning_rate=1e-3, batch=2, use_pooler=True, squared_norm=False, timesteps="uniform"),
    **dict(pixels="symmetric", max_grad_norm=1.0, preservation_weight=0.5),
)
REFINEMENT = dict(scale_convention="paper", train_preserve_scale=0.1, lamb=1.0)
SAMPLING = dict(scheduler="ddim", steps=2, guidance=4.0, batch=4, shard_size=4)


# Runs the steps of a JSON list one after the other; one process for all, since each would import torch anew.
RUNNER = """
import json, runpy, sys
for step, *arguments in json.load(sys.stdin):
    sys.argv = [step, *arguments]
    runpy.run_module(f"lethe.steps.{step}", run_name="__main__")
"""


def command(step: str, settings: dict, **files: object) -> list[str]:
    """A step and its arguments, named like `files`."""
    words = [step, "--settings", json.dumps(settings)]
    for name, value in files.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


@pytest.fixture(scope="module")
def made(sdxl_folder: Path, some_rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every step has run once, for one concept and with one prior."""
    out = tmp_path_factory.mktemp("steps")
    base = dict(name="sdxl", model=str(sdxl_folder), revision=None, variant=None, fingerprint="f" * 64)
    common = dict(base=base, device="cpu", precision="float32", seed=1, concepts=["ship"])
    concept = dict(name="ship", anchor="sky", kind="object")
    (out / "templates.txt").write_text("a photo of the {}\n{} on the ground\n")
    (out / "captions.csv").write_text("prompt\na bird\na person in the sky\n")
    (out / "rows.csv").write_text(rows_as_csv(some_rows))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2)]
    write_shard(out / "images.zip", some_rows[:2], pictures)
    write_shard(out / "masks.zip", some_rows[:2], [np.full((32, 32), 255, np.uint8)] * 2)
    templates, moments, prior = out / "templates.txt", out / "moments.safetensors", out / "prior.safetensors"
    loras, edit = out / "lora" / "pytorch_lora_weights.safetensors", out / "edit.safetensors"
    trained = common | dict(concept=concept, templates_used=2)
    (out / "text.json").write_text(json.dumps({key: base[key] for key in ("model", "revision", "variant")}))
    kept = common | dict(text="sdxl", prior=dict(file=str(out / "captions.csv"), column="prompt"))
    joined = common | dict(task="ships", edit_form="weights", preserve_weight=1.0)
    joined |= dict(mace=REFINEMENT | dict(fuse_preserve_scale=1.0))
    suite = {"file": str(out / "rows.csv")}
    sampled = common | dict(sampling=SAMPLING, suite=suite, shard=0, digest=rows_digest(some_rows))
    images, masks = out / "images.zip", out / "masks.zip"
    commands = [
        command("base", common, out_record=out / "base.json"),
        command("moments", trained, templates=templates, out_moments=moments),
        command("prior", kept, text_encoder=out / "text.json", sources=out / "captions.csv", out_prior=prior),
        command(
            *("lora", trained | dict(lora=LORA, refinement=REFINEMENT, preserve_weight=1.0)),
            **dict(images=images, masks=masks, templates=templates, moments=moments, prior=prior, domain_prior=[]),
            **dict(anchor_images=images, out_lora=loras, out_curve=out / "loss.csv"),
        ),
        command(
            *("mace", joined),
            **dict(moments=moments, loras=loras, prior=prior, domain_prior=[], out_edit=edit),
        ),
        command("sample", sampled, edit=edit, out_shard=out / "edited.zip"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(commands),
        **dict(capture_output=True, text=True, timeout=1200),
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_step_runs_on_sdxl(made: Path, sdxl_folder: Path) -> None:
    assert json.loads((made / "base.json").read_text())["pipeline"] == "StableDiffusionXLPipeline"
    assert load_concept_moments(made / "moments.safetensors").source.shape == (48, 48)
    assert load_moment(made / "prior.safetensors").tokens == 2 * 77
    assert len(pd.read_csv(made / "loss.csv")) == 2
    assert len(load_edit(made / "edit.safetensors").weights) == 16
    images = read_images(made / "edited.zip")
    assert len(images) == 4
    assert images[0].shape == (32, 32, 3)
    assert images[0].std() > 1
    pipeline = DiffusionPipeline.from_pretrained(sdxl_folder)
    pipeline.load_lora_weights(made / "lora")
    assert len(pipeline.unet.peft_config) == 1
