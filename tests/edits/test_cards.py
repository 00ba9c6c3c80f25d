"""Model cards: what the hub reads of them, by its own library, and what anybody's texts may not do in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from torch import Tensor

from edited import CONCEPTS, factored_for, record_for
from lethe.edits.cards import card, gallery, own_card, results
from lethe.edits.export import export
from lethe.edits.factors import FactoredEdit
from lethe.edits.forms import FORMS

TABLE = "method,acc_e,h_o,note,n_acc_e\nmace,2.78,97.39,x,72\noriginal,97.22,0.0,y,72\n"
ABOUT = {"details": {"mace": {"acc_e_interval_95": [0.7651, 9.574]}}, "protocols": {"acc_e": "clip-top1@1, percent"}}


@pytest.fixture
def factored(sd_folder: Path, drawn: Callable[..., Tensor]) -> FactoredEdit:
    return factored_for(sd_folder, drawn)


def sampled(folder: Path, edit: str, prompts: list[str], shade: int, **changes: object) -> Path:
    """A folder as `lethe sample` writes it."""
    folder.mkdir()
    rows = [{"image": f"{k:03d}.png", "prompt": prompt, "seed": k} for k, prompt in enumerate(prompts)]
    for row in rows:
        Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(folder / row["image"])
    about = {"edit": edit, "base": "b", "scheduler": "own", "steps": 2, "guidance": 7.5, "batch": 4, "images": rows}
    (folder / "samples.json").write_text(json.dumps(about | changes))
    return folder


def front_of(text: str) -> dict:
    return ModelCard(text, ignore_metadata_errors=False).data.to_dict()


def on_hub(record: dict) -> dict:
    return record | {"base": record["base"] | {"model": "owner/base", "revision": "abc"}}


@pytest.mark.parametrize("form", FORMS)
def test_the_hub_reads_base_relation_and_licence(sd_folder: Path, form: str) -> None:
    whole = form in ("diffusers", "checkpoint")
    own = {"license": "other", "license_name": "openrail++", "license_link": "LICENSE.md", "tags": ["art", "lethe"]}
    own |= {"widget": [{"text": "x"}], "model-index": [{"name": "old", "results": []}], "base_model": "older/base"}
    text = card(on_hub(record_for(sd_folder)), front=own, own="# My base", form=form)
    front = front_of(text)
    assert front == {
        "base_model": "owner/base",
        "base_model_relation": "finetune" if whole else "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "other",
        "license_name": "openrail++",
        "license_link": "LICENSE.md",
        "tags": ["art", "lethe", "concept-erasure", *([] if whole else ["lora"])],
    }
    assert ("# My base" in text) == whole  # who downloads a LoRA has the base's card
    assert 'from the base "owner/base", revision abc' in text
    fenced = text.split("\n```json\n")[1].split("\n```\n")[0]
    assert [json.loads(line) for line in fenced.splitlines()] == CONCEPTS
    assert "## What this does not guarantee" in text


def test_a_base_in_a_folder_is_not_named_as_one_of_the_hub(sd_folder: Path) -> None:
    assert "base_model" not in front_of(card(record_for(sd_folder), front={}, own="", form="diffusers"))
    front = front_of(card(record_for(sd_folder), front={"base_model": "older/base"}, own="", form="diffusers"))
    assert (front["base_model"], front["base_model_relation"]) == ("older/base", "finetune")


def test_the_bases_card_is_read_from_its_folder(tmp_path: Path) -> None:
    assert own_card(tmp_path) == ({}, "")
    (tmp_path / "README.md").write_text("# Mine\n---\nno: front\n---\n")
    assert own_card(tmp_path) == ({}, "# Mine\n---\nno: front\n---")
    (tmp_path / "README.md").write_text("---\nlicense: openrail\ntags: [x]\n---\n# Mine\n")
    assert own_card(tmp_path) == ({"license": "openrail", "tags": ["x"]}, "# Mine")
    for bad, told in (("[", "its front matter is no YAML"), ("- a", "must be keys and values")):
        (tmp_path / "README.md").write_text(f"---\n{bad}\n---\n")
        with pytest.raises(ValueError, match=told):
            own_card(tmp_path)


def test_pictures_and_numbers_stand_in_the_card(tmp_path: Path, factored: FactoredEdit) -> None:
    prompts = ["a ship", "| <script> `x` [y](z) Ü\n# no"]
    before, after = (
        sampled(tmp_path / name, edit, prompts, shade) for name, edit, shade in (("b", "", 9), ("a", "e", 200))
    )
    (tmp_path / "objects.csv").write_text(TABLE)
    (tmp_path / "objects.json").write_text(json.dumps(ABOUT))
    made = export(factored, tmp_path / "out", gallery=(before, after), table=tmp_path / "objects.csv")
    text = (made.path / "README.md").read_text()
    front = front_of(text)
    assert [shown["text"] for shown in front["widget"]] == prompts
    for k, shown in enumerate(front["widget"]):
        assert np.asarray(Image.open(made.path / shown["output"]["url"])).max() == 200
        assert np.asarray(Image.open(made.path / f"images/before-{k:03d}.png")).max() == 9
    found = ModelCard(text).data.eval_results
    assert [(one.metric_type, one.metric_value, one.dataset_name) for one in found] == [
        ("acc_e", 2.78, "objects"),
        ("h_o", 97.39, "objects"),
    ]
    assert found[0].metric_args == {"protocol": "clip-top1@1, percent", "n": 72, "interval_95": [0.77, 9.57]}
    assert "| acc&#95;e | 2.78 | 72 | 0.77 to 9.57 | clip-top1&#64;1, percent |" in text
    (line,) = [line for line in text.splitlines() if "script" in line and line.startswith("|")]
    assert line.count("|") == 4
    assert not set("<>`[#") & set(line.split("(1)")[0].replace("&#", ""))


def test_a_lora_does_not_pass_off_the_edits_pictures_and_numbers_as_its_own(
    tmp_path: Path, factored: FactoredEdit
) -> None:
    pictures = sampled(tmp_path / "b", "", ["a ship"], 9), sampled(tmp_path / "a", "e", ["a ship"], 200)
    (tmp_path / "objects.csv").write_text(TABLE)
    for form, rank in (("kohya", 1), ("peft", 1), ("diff", None)):
        given = dict(rank=rank, gallery=pictures, table=tmp_path / "objects.csv")
        export(factored, tmp_path / form, form, **given)
        text = (tmp_path / form / "README.md").read_text()
        assert ("model-index" in front_of(text)) == ("widget" in front_of(text)) == (form == "diff")
        assert text.count("Of the edit itself, not of this LoRA") == (0 if form == "diff" else 2)
        assert "| 2.78 |" in text
        assert "images/after-000.png" in text


def test_the_row_is_that_of_the_edits_task_and_method(tmp_path: Path, factored: FactoredEdit) -> None:
    (tmp_path / "t.csv").write_text("edit,acc_e\nships/mine,1.0\ncars/mine,2.0\n")
    edit = FactoredEdit(
        factored.transform, factored.updates, factored.rows, factored.record | {"task": "cars", "method": "mine"}
    )
    made = export(edit, tmp_path / "out", table=tmp_path / "t.csv")
    assert ModelCard((made.path / "README.md").read_text()).data.eval_results[0].metric_value == 2
    chosen = export(edit, tmp_path / "other", table=tmp_path / "t.csv", row="ships/mine")
    assert ModelCard((chosen.path / "README.md").read_text()).data.eval_results[0].metric_value == 1
    with pytest.raises(ValueError, match="there is no row 'spm'; its rows are ships/mine, cars/mine"):
        export(edit, tmp_path / "third", table=tmp_path / "t.csv", row="spm")


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    base, edit = sampled(tmp_path / "base", "", ["a"], 0), sampled(tmp_path / "edit", "e", ["a"], 0)
    assert [pair.seed for pair in gallery(base, edit)] == [0]
    others = sampled(tmp_path / "others", "e", ["b"], 0)
    steps = sampled(tmp_path / "steps", "e", ["a"], 0, steps=9)
    away = sampled(tmp_path / "away", "e", ["a"], 0, images=[{"image": "../x.png", "prompt": "a", "seed": 0}])
    for pair, told in (
        ((edit, base), "a gallery is of a base, then of an edit"),
        ((base, others), "are not of the same prompts, seeds and settings"),
        ((base, steps), "are not of the same prompts, seeds and settings"),
        ((base, away), "away/samples.json: it does not list images"),
        ((base, tmp_path), "samples.json"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            gallery(*pair)


def test_a_row_without_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("method,a\nmace,nan\n")
    with pytest.raises(ValueError, match="row 'mace' has no numbers"):
        results(tmp_path / "t.csv", "mace")


def test_a_licence_goes_into_the_headers_too(
    copy_with_card: Path, tmp_path: Path, drawn: Callable[..., Tensor]
) -> None:
    edit = factored_for(copy_with_card, drawn)
    made = export(edit, tmp_path / "out", "diff")
    header = made.path.read_bytes()[:20000]
    assert b'"modelspec.license":"openrail++"' in header
    text = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license_name"] == "openrail++"


@pytest.fixture
def copy_with_card(sd_folder: Path, tmp_path: Path) -> Path:
    """The tiny base with a card of its own."""
    copy = Path(shutil.copytree(sd_folder, tmp_path / "copy"))
    (copy / "README.md").write_text("---\nlicense: other\nlicense_name: openrail++\n---\n# Mine\n")
    return copy
