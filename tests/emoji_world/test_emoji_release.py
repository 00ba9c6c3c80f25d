"""The folder that ships: models in half precision that still load, and a card that says what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPModel, CLIPSegForImageSegmentation, CLIPTokenizer

from conftest import CPU
from emoji_world.release import card, forget_origin, halve
from emoji_world.world import World
from lethe.bases.pipeline import load_pipeline
from lethe.measures.clip import load_judge


@pytest.fixture(scope="module")
def released(
    sd_folder: Path, clip_folder: Path, clipseg_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("released")
    halve(sd_folder, clip_folder, clipseg_folder, folder)
    return folder


def parts_of(folder: Path, clip: str, clipseg: str, pipeline: str) -> dict[str, torch.nn.Module]:
    loaded = StableDiffusionPipeline.from_pretrained(folder / pipeline, safety_checker=None)
    return {
        "clip": CLIPModel.from_pretrained(folder / clip),
        "clipseg": CLIPSegForImageSegmentation.from_pretrained(folder / clipseg),
        "unet": loaded.unet,
        "vae": loaded.vae,
        "text_encoder": loaded.text_encoder,
    }


def test_weights_are_halved_and_no_more(
    released: Path, sd_folder: Path, clip_folder: Path, clipseg_folder: Path
) -> None:
    before = parts_of(Path("/"), str(clip_folder), str(clipseg_folder), str(sd_folder))
    after = parts_of(released, "clip", "clipseg", "pipeline")
    for name, part in after.items():
        for key, tensor in part.state_dict().items():
            want = before[name].state_dict()[key]
            assert torch.equal(tensor.float(), want.half().float() if want.is_floating_point() else want.float()), key
    size = {path.relative_to(released): path.stat().st_size for path in released.rglob("*.safetensors")}
    assert len(size) == 5
    for path, halved in size.items():
        source = {"clip": clip_folder, "clipseg": clipseg_folder, "pipeline": sd_folder}[path.parts[0]]
        assert halved < 0.7 * (source / Path(*path.parts[1:])).stat().st_size
    assert not list(released.rglob("*.bin"))


def test_what_is_released_loads_and_runs(released: Path) -> None:
    pipeline = load_pipeline(str(released / "pipeline"), None, device=CPU, precision="float32", scheduler="ddim")
    assert len(pipeline("a ship", num_inference_steps=1).images) == 1
    assert load_judge(str(released / "clip"), device=CPU).tokenizer.model_max_length == 77
    assert CLIPTokenizer.from_pretrained(released / "clipseg").model_max_length == 77
    assert CLIPImageProcessor.from_pretrained(released / "clipseg").crop_size["height"] == 32


def test_what_is_released_does_not_name_the_machine_that_made_it(released: Path, sd_folder: Path) -> None:
    texts = [path.read_text() for path in released.rglob("*.json")]
    assert len(texts) > 10
    assert not any("_name_or_path" in text or str(sd_folder.parent) in text for text in texts)


def test_only_the_origin_is_forgotten(tmp_path: Path) -> None:
    contents = {"a": {"_name_or_path": "/home/me", "x": ["ü", None]}, "b": {"x": 1}, "c": ["_name_or_path"]}
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
        forget_origin(tmp_path / name)
    found = {name: json.loads((tmp_path / name).read_text()) for name in contents}
    assert found == {"a": {"x": ["ü", None]}, "b": {"x": 1}, "c": ["_name_or_path"]}


QUALITY = {
    "objects by name": {"percent": 97.5, "n": 600, "interval_95": [95.9, 98.5]},
    "segmenter, mean intersection over union": {"value": 0.87, "n": 300},
    "per object": {"ship": 89.9, "bird": 90.0, "cat": 100.0},
}


def test_the_card_says_what_was_measured(world: World) -> None:
    text = card(world, QUALITY, {"vae": {"steps": 7}})
    assert "| objects by name | 97.5 | 95.9 to 98.5 | 600 |" in text
    assert "| segmenter, mean intersection over union | 0.87 | 300 |" in text
    assert "Objects below 90 percent: ship 89.9." in text
    assert '"steps": 7' in text
    assert "30 objects in 5 styles" in text


def test_the_card_names_no_object_when_all_are_good(world: World) -> None:
    assert "Objects below 90 percent: none." in card(world, QUALITY | {"per object": {"ship": 95.0}}, {})


def test_the_card_attributes_every_style_with_its_licence(world: World) -> None:
    text = card(world, QUALITY, {})
    for style in world.styles:
        line = rf"^- {re.escape(style.name)}: {re.escape(style.attribution)}, \[{re.escape(style.licence)}\]\(https://\S+\)$"
        assert re.search(line, text, re.MULTILINE), style.name
