"""Erase, draw and measure from Python, on tiny pipelines; docs/python.md and the notebook run on the emoji world."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import lethe
from lethe.bases.base import Base
from lethe.bases.pipeline import PRECISIONS, text_encoders
from lethe.bases.text import encode_prompts
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.weights import WeightEdit
from lethe.erasure.moments import concept_moments, second_moment
from lethe.inputs.templates import SHIPPED, read_templates
from lethe.methods.mace.join import MaceSettings
from lethe.methods.mace.join import erase as mace_erase
from lethe.plugins import kinds, manifest
from running import ROOT

BRIEF = {"count": 2, "steps": 2, "guidance": 2.0}
WHOLE = {"segmenter": "full-frame"}


def values(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipeline.unet.state_dict().items()}


def test_importing_lethe_takes_no_torch_along() -> None:
    code = "import sys, lethe; assert {'erase', 'Edit', 'Concept'} <= set(dir(lethe)); print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert not {"torch", "numpy", "diffusers", "transformers"} & set(run.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'erease'"):
        lethe.erease  # noqa: B018


def test_refinement_alone_is_the_closed_form_of_the_library(pipeline: DiffusionPipeline) -> None:
    """No image, no training: what `erase` hands on must be what a person would compute by hand."""
    texts = ["a picture of a bird in the sky", "a photo of the ship"]
    edit = lethe.erase(pipeline, {"ship": "ground"}, fusion="none", prior=texts, lamb=0.5, templates={"used": 4})
    text = text_encoders(pipeline)
    moments = [concept_moments(text, "ship", "ground", read_templates(SHIPPED / "object.txt")[:4])]
    prior = second_moment(encode_prompts(text, texts)).matrix
    settings = MaceSettings("paper", 0.1, 0.5, 1.0, "none")
    weights = Base.of_pipeline(pipeline).projections
    by_hand = mace_erase(weights, moments, [{}], prior, settings)
    assert isinstance(edit, WeightEdit)
    assert set(edit.weights) == {f"{name}.weight" for name in by_hand}
    assert all(torch.equal(edit.weights[f"{name}.weight"], weight) for name, weight in by_hand.items())


def test_erasing_trains_and_leaves_the_pipeline_as_it_was(pipeline: DiffusionPipeline, tmp_path: Path) -> None:
    before, scheduler = values(pipeline), pipeline.scheduler
    chosen = {"lora": {"steps": 2}, "images": BRIEF, "masks": WHOLE, "templates": {"used": 2}}
    edit = lethe.erase(pipeline, [lethe.Concept("ship", "object", "ground")], seed=3, **chosen)
    again = lethe.erase(pipeline, {"ship": "ground"}, seed=3, **chosen)
    other = lethe.erase(pipeline, {"ship": "ground"}, seed=4, **chosen)
    assert all(torch.equal(edit.weights[name], again.weights[name]) for name in edit.weights)
    assert not all(torch.equal(edit.weights[name], other.weights[name]) for name in edit.weights)
    after = values(pipeline)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert pipeline.scheduler is scheduler
    edit.save(tmp_path / "edit.safetensors")
    back = lethe.Edit.load(tmp_path / "edit.safetensors")
    assert (back.record["method"], back.record["concepts"]) == ("mace", ["ship"])
    assert back.record["settings"]["method"]["lora"]["steps"] == 2
    assert back.record["settings"]["method"]["lora"]["rank"] == 1  # a default of the manifest


def test_what_was_erased_in_memory_leaves_for_other_programs(
    pipeline: DiffusionPipeline, sd_folder: Path, tmp_path: Path
) -> None:
    edit = lethe.erase(pipeline, {"ship": "ground"}, "uce", preserve=["bird"])
    made = lethe.export(edit, tmp_path / "out", "diff")  # its base is found by the pipeline's folder
    before = projection_weights(str(sd_folder), None)
    added = load_file(made.path)
    assert len(added) == len(edit.weights) == len(before)
    for name, weight in before.items():
        sum_ = weight + added[f"lora_unet_{name.replace('.', '_')}.diff"]
        assert torch.allclose(sum_, edit.weights[f"{name}.weight"], rtol=2**-22, atol=2**-22)
    told = lethe.publish(tmp_path / "out", "owner/name", dry_run=True)
    assert sorted(told.files) == ["README.md", "lethe.json", "out.safetensors"]


@pytest.mark.parametrize("method", kinds("methods"))
def test_no_setting_of_a_method_has_the_name_of_an_argument_of_erase(method: str) -> None:
    """Settings are arguments too: one of such a name could not be given from Python."""
    own = inspect.signature(lethe.erase).parameters.keys() - {"settings"}
    assert not own & manifest("methods", method).settings["properties"].keys()


def test_an_edit_draws_differently_until_it_is_removed(pipeline: DiffusionPipeline) -> None:
    weights = {f"{n}.weight": 3 * w for n, w in Base.of_pipeline(pipeline).projections.items()}
    edit = WeightEdit(weights)
    before, prompts = values(pipeline), ["a photo of the ship", "a bird"]
    drawn = lethe.sample(pipeline, prompts, [5, 6], steps=2)
    edit.install(pipeline)
    assert abs(np.stack(lethe.sample(pipeline, prompts, [5, 6], steps=2)).astype(int) - np.stack(drawn)).max() > 0
    with pytest.raises(ValueError, match="another edit is installed in this pipeline; remove it first"):
        edit.install(pipeline)
    with pytest.raises(ValueError, match="this edit is not installed in this pipeline"):
        WeightEdit(weights).remove(pipeline)
    edit.remove(pipeline)
    after = values(pipeline)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(map(np.array_equal, lethe.sample(pipeline, prompts, [5, 6], steps=2), drawn))
    with pytest.raises(ValueError, match="not installed"):
        edit.remove(pipeline)


def test_an_edit_that_does_not_fit_leaves_the_pipeline_as_it_was(pipeline: DiffusionPipeline) -> None:
    before = values(pipeline)
    for edit in (
        WeightEdit({"conv_in.bias": torch.ones(3)}),
        WeightEdit({"conv_in.bias": torch.full((16,), torch.nan)}),
    ):
        with pytest.raises(ValueError, match="does not fit|NaN"):
            edit.install(pipeline)
    after = values(pipeline)
    assert all(torch.equal(before[name], after[name]) for name in before)
    WeightEdit({"conv_in.bias": torch.zeros(16)}).install(pipeline)  # none of them counts as installed


def test_a_base_in_memory_and_one_in_a_folder_are_the_same(base_folder: Path) -> None:
    about = {"name": "x", "model": str(base_folder), "revision": None, "variant": None}
    stored = Base.in_folder(base_folder, about, device=torch.device("cpu"), precision="float32")
    loaded = Base.of_pipeline(stored.pipeline)
    assert stored.weights_sha256 == loaded.weights_sha256 == weights_hash(base_folder)
    assert stored.projections.keys() == loaded.projections.keys() == projection_weights(str(base_folder), None).keys()
    assert all(torch.equal(stored.projections[name], weight) for name, weight in loaded.projections.items())
    states = [next(encode_prompts(base.text, ["a photo of the ship"])) for base in (stored, loaded)]
    assert torch.equal(*states)
    half = Base.in_folder(base_folder, about, device=torch.device("cpu"), precision="float16")
    assert {weight.dtype for weight in half.computing(half.projections).values()} == {PRECISIONS["float16"]}


def test_measuring_and_recognising_are_those_of_the_workflow(clip_folder: Path) -> None:
    from lethe.measures.clip import image_embeddings, load_judge, text_embeddings

    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    judge = load_judge(str(clip_folder), device=torch.device("cpu"))
    table = lethe.measure(images, ["a", "b", "c"], model=str(clip_folder))
    embedded = image_embeddings(judge, iter(images), ["x"] * 3)
    assert np.array_equal(np.stack(table["image"]), embedded)
    assert list(table.columns) == ["prompt", "image", "text"]
    names = ["ship", "bird"]
    texts = text_embeddings(judge, [f"a photo of the {name}" for name in names])
    cosines = embedded @ texts.T / np.linalg.norm(texts, axis=1)
    assert lethe.recognised(images, names, model=str(clip_folder)) == [names[k] for k in cosines.argmax(1)]


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("maec", {}, "there is no method 'maec'; there are "),
        ("mace", {"lamp": 1}, "mace has no setting 'lamp'; it has prior, domain_prior"),
        ("mace", {"fusion": "mean", "images": BRIEF, "masks": WHOLE}, "fusion must be one of closed-form, sum, none"),
    ],
)
def test_what_is_not_there_is_said(pipeline: DiffusionPipeline, method: str, settings: dict, told: str) -> None:
    if "fusion" in settings:
        settings = settings | {"lora": {"steps": 1}}
    with pytest.raises(ValueError, match=told):
        lethe.erase(pipeline, {"ship": "ground"}, method, **settings)
    with pytest.raises(ValueError, match="clip needs the setting 'model': A CLIP model"):
        lethe.measure([np.zeros((8, 8, 3), np.uint8)])
