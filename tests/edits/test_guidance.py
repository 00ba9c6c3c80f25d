"""Edits by guidance: installed, removed and saved like any other; they change no weight, so nothing else takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from conftest import CPU, unet_inputs
from edited import record_for
from guided import away, drawn_by
from lethe.__main__ import main
from lethe.bases.base import Base
from lethe.bases.pipeline import load_pipeline
from lethe.edits.changes import check_base
from lethe.edits.edit import Edit
from lethe.edits.export import export
from lethe.edits.forms import FORMS, LORAS
from lethe.edits.guidance import GuidanceEdit
from lethe.edits.loras import lora_of
from lethe.methods.sld import PRESETS

SAFETY = "a bird in the sky"
EDITS = {
    "sld": {"text": SAFETY, "phrases_cut": 0, **asdict(PRESETS["max"])},
    "negative-prompt": {"text": SAFETY, "phrases_cut": 0},
}
REFUSAL = (
    "changes no weight, so no file of weights can hold it; it guides inference, prompt by prompt, as images are drawn: "
    "sample with it (`lethe sample`)"
)


@pytest.fixture(params=EDITS)
def edit(request: pytest.FixtureRequest, sd_folder: Path) -> GuidanceEdit:
    """An edit by guidance of each method, made for the tiny base."""
    return GuidanceEdit(request.param, EDITS[request.param], record_for(sd_folder))


def weights(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    parts = {"unet": pipeline.unet, "text": pipeline.text_encoder, "vae": pipeline.vae}
    return {f"{n}.{key}": t.clone() for n, part in parts.items() for key, t in part.state_dict().items()}


# In a pipeline


@pytest.mark.parametrize("kind", EDITS)
def test_removing_an_edit_gives_the_pipeline_back(base_pipeline: DiffusionPipeline, kind: str) -> None:
    edit = GuidanceEdit(kind, EDITS[kind])
    before, plain, names = weights(base_pipeline), drawn_by(base_pipeline, steps=3), set(vars(base_pipeline))
    for _ in range(2):
        edit.install(base_pipeline)
        assert away(drawn_by(base_pipeline, steps=3), plain) > 1e-3
        after = weights(base_pipeline)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        edit.remove(base_pipeline)
        assert torch.equal(drawn_by(base_pipeline, steps=3), plain)
        assert set(vars(base_pipeline)) == names
    after = weights(base_pipeline)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@torch.no_grad()
@pytest.mark.parametrize("kind", EDITS)
def test_the_unet_itself_stays_as_it_was(
    base_pipeline: DiffusionPipeline, drawn: Callable[..., Tensor], kind: str
) -> None:
    """Outside of the pipeline's loop, also after a loop that failed, the U-Net predicts what it always did."""
    unet = base_pipeline.unet
    inputs, parameters, config = unet_inputs(unet, drawn), dict(unet.named_parameters()), dict(unet.config)
    want, own = unet(**inputs).sample, set(vars(unet))
    GuidanceEdit(kind, EDITS[kind]).install(base_pipeline)

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn_by(base_pipeline, steps=2, callback_on_step_end=fail)
    drawn_by(base_pipeline, steps=2)
    assert torch.equal(unet(**inputs).sample, want)
    assert (set(vars(unet)), dict(unet.config), unet.dtype) == (own, config, torch.float32)
    assert all(dict(unet.named_parameters())[name] is parameter for name, parameter in parameters.items())
    assert not unet._forward_hooks
    assert not unet._forward_pre_hooks


def test_a_progress_bar_of_ones_own_comes_back(pipeline: DiffusionPipeline, edit: GuidanceEdit) -> None:
    shown = []
    original = pipeline.progress_bar

    def own(total: int) -> object:
        shown.append(total)
        return original(total=total)

    pipeline.progress_bar = own
    edit.install(pipeline)
    drawn_by(pipeline, steps=3)
    edit.remove(pipeline)
    assert shown == [3]
    assert pipeline.progress_bar is own


def test_another_edit_or_base_is_refused(pipeline: DiffusionPipeline, edit: GuidanceEdit) -> None:
    with pytest.raises(ValueError, match="the edit was made for base tiny"):
        edit.install(pipeline, base_fingerprint="e" * 64)
    edit.install(pipeline, base_fingerprint=edit.record["base"]["fingerprint"])
    with pytest.raises(ValueError, match="another edit is installed"):
        edit.install(pipeline)


def test_a_kind_that_guides_nothing_is_refused(pipeline: DiffusionPipeline) -> None:
    before = set(vars(pipeline))
    with pytest.raises(ValueError, match="the method mace changes weights; an edit by guidance cannot be of its kind"):
        GuidanceEdit("mace", {}).install(pipeline)
    assert set(vars(pipeline)) == before


# In a file


def test_an_edit_comes_back_from_its_file_the_same_bytes_each_time(tmp_path: Path, edit: GuidanceEdit) -> None:
    turned = GuidanceEdit(edit.kind, dict(reversed(edit.settings.items())), record=dict(reversed(edit.record.items())))
    for name, one in (("a", edit), ("b", turned), ("c", edit)):
        one.save(tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    back = Edit.load(tmp_path / "a")
    assert back == edit
    back.save(tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_loaded_edit_draws_what_the_made_one_draws(
    tmp_path: Path, pipeline: DiffusionPipeline, edit: GuidanceEdit
) -> None:
    edit.install(pipeline)
    want = drawn_by(pipeline, steps=3)
    edit.remove(pipeline)
    edit.save(tmp_path / "edit")
    Edit.load(tmp_path / "edit").install(pipeline)
    assert torch.equal(drawn_by(pipeline, steps=3), want)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "slb"}, "the header's kind of guidance, 'slb', is no method of this Lethe"),
        ({"kind": None}, "the header's kind of guidance, None, is no method of this Lethe"),
        ({"kind": ["sld"]}, "the header's kind of guidance"),
        ({"kind": "../sld"}, "the header's kind of guidance"),
        ({"guidance": None}, "an edit by guidance must hold settings in its header, and no tensors"),
        ({"guidance": "ship"}, "an edit by guidance must hold settings in its header, and no tensors"),
        ({"format": 2}, "this edit has format 2"),
        ({"form": "weights"}, "the edit changes nothing: it holds no tensors"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, edit: GuidanceEdit, change: dict, text: str) -> None:
    edit.save(tmp_path / "good")
    with safe_open(tmp_path / "good", "pt") as file:
        record = json.loads(file.metadata()["lethe"])
    record["edit"] |= change
    save_file({}, tmp_path / "bad", {"lethe": json.dumps(record)})
    with pytest.raises(ValueError, match=rf"bad: {text}"):
        Edit.load(tmp_path / "bad")


def test_an_edit_with_tensors_is_refused(tmp_path: Path, edit: GuidanceEdit) -> None:
    edit.save(tmp_path / "good")
    with safe_open(tmp_path / "good", "pt") as file:
        save_file({"a": torch.zeros(1)}, tmp_path / "bad", file.metadata())
    with pytest.raises(ValueError, match="bad: an edit by guidance must hold settings in its header, and no tensors"):
        Edit.load(tmp_path / "bad")


# Where it cannot go


def test_no_folder_and_no_lora_is_made_of_it(tmp_path: Path, sd_folder: Path, edit: GuidanceEdit) -> None:
    for refused in (
        lambda: check_base(edit, sd_folder),
        lambda: export(edit, tmp_path / "out", base=sd_folder),
        lambda: lora_of(sd_folder, edit, rank=1),
    ):
        with pytest.raises(ValueError, match=re.escape(f"this edit of {edit.kind} {REFUSAL}")):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["sd_folder", "owner/never-fetched"])
def test_the_command_refuses_it_before_it_looks_for_the_base(
    tmp_path: Path, sd_folder: Path, edit: GuidanceEdit, base: str, form: str, capsys: pytest.CaptureFixture
) -> None:
    edit.save(tmp_path / "edit")
    place = str(sd_folder) if base == "sd_folder" else base
    given = ["--base", place, "--edit", str(tmp_path / "edit"), "--out", str(tmp_path / "out")]
    needed = ["--rank", "1"] if form in LORAS else ["--checkpoint", "x.safetensors"] if form == "checkpoint" else []
    assert main(["export", "--as", form, *needed, *given]) == 2
    assert capsys.readouterr() == ("", f"lethe: this edit of {edit.kind} {REFUSAL}\n")
    assert not (tmp_path / "out").exists()


def test_show_says_its_form_kind_and_settings(
    tmp_path: Path, edit: GuidanceEdit, capsys: pytest.CaptureFixture
) -> None:
    edit.save(tmp_path / "edit")
    assert main(["show", str(tmp_path / "edit")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line.strip())
    assert lines["form"] == f"guidance of kind {edit.kind}, 0.0 MB"
    assert f"text {SAFETY}" in lines["guidance"]
    assert "phrases_cut 0" in lines["guidance"]


def test_a_pipeline_in_memory_is_edited_without_a_file(sd_folder: Path, pipeline: DiffusionPipeline) -> None:
    from lethe.inputs.concepts import Concept
    from lethe.methods.negative_prompt import erase

    plain = drawn_by(pipeline, steps=2)
    erase(Base.of_pipeline(pipeline), [Concept("bird", "object", "sky")], {"text": None}, {}).install(pipeline)
    other = load_pipeline(str(sd_folder), None, device=CPU, precision="float32")
    assert torch.equal(drawn_by(other, steps=2), plain)
    assert torch.equal(drawn_by(pipeline, steps=2), drawn_by(other, steps=2, negative_prompt="bird"))
