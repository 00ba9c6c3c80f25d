"""The workflow from images to samples on bases of Stable Diffusion 2.x and XL; test_workflow.py runs on 1.x."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from diffusers import DiffusionPipeline

from lethe.edits.edit import Edit
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.shards import read_images
from lethe.inputs.suites import shard_digests, suite_rows
from running import snakemake

EDIT = "edits/objects/mace.safetensors"
WIDTHS = {"sd2": 32, "sdxl": 48}  # of the text states
PIPELINES = {"sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{family}_folder")


@pytest.fixture(scope="module")
def made(
    project: Path, family: str, model: Path, forked: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results for a base of the family, up to a shard of samples; LoRAs keep how the anchor looks."""
    folder = tmp_path_factory.mktemp(family) / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["bases"] = {family: {"model": str(model), "revision": None}}
    config["tasks"]["objects"]["base"] = family
    config["methods"]["mace"] |= {"domain_prior": "captions", "preserve_weight": 0.5}
    config["methods"]["mace"]["lora"] |= {"preservation_weight": 0.5, "batch": 2}
    path.write_text(yaml.safe_dump(config))
    table = config["suites"]["synonyms"] | {"table": folder / "config/concepts.tsv"}
    (digest,) = shard_digests(suite_rows(table), config["sampling"]["shard_size"])
    shard = f"samples/objects/mace/synonyms/{digest[:12]}.zip"
    targets = [f"results/{family}/{name}" for name in ("base.json", EDIT, shard)]
    run = snakemake(folder, "--cores", "2", *targets, environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "results"


def test_an_edit_is_made_and_sampled(made: Path, family: str) -> None:
    results, width = made / family, WIDTHS[family]
    record = json.loads((results / "base.json").read_text())
    assert (record["pipeline"], record["cross_attention_dim"]) == (PIPELINES[family], width)
    assert load_concept_moments(results / "concepts/ship/moments.safetensors").source.shape == (width, width)
    (prior,) = made.glob("priors/*/captions.safetensors")
    assert load_moment(prior).tokens == 20 * 77
    unet = DiffusionPipeline.from_pretrained(record["model"]).unet
    base, edit = unet.state_dict(), Edit.load(results / EDIT)
    assert edit.weights.keys() == {name for name in base if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert all((weight - base[name]).norm() > 1e-4 * base[name].norm() for name, weight in edit.weights.items())
    (shard,) = (results / "samples/objects/mace/synonyms").iterdir()
    images = read_images(shard)
    assert len(images) == 4
    assert images[0].shape == (32, 32, 3)
    assert images[0].std() > 1


def test_its_loras_load_into_diffusers(made: Path, family: str, model: Path) -> None:
    (folder,) = (made / family / "concepts/ship/loras").iterdir()
    assert len(pd.read_csv(folder / "loss.csv")) == 3
    pipeline = DiffusionPipeline.from_pretrained(model)
    pipeline.load_lora_weights(folder)
    assert len(pipeline.unet.peft_config) == 1
