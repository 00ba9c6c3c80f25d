"""CLIP embeddings: those that transformers gives for one image or prompt at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from conftest import CPU
from lethe.files.shards import image_name, read_pictures, write_shard
from lethe.measures.clip import Judge, image_embeddings, load, load_judge, measure, notes, text_embeddings, texts

PROMPTS = ["a photo of the ship", "", "a bird", "x " * 200, "Charles-François Daubigny", "a photo of the ship"]


@pytest.fixture(scope="module")
def judge(clip_folder: Path) -> Judge:
    return load_judge(str(clip_folder), device=CPU)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (40, 56)])
@pytest.mark.parametrize("batch", [1, 3, 64])
@torch.no_grad()
def test_image_embeddings_are_those_of_each_image(
    judge: Judge, tmp_path: Path, height: int, width: int, batch: int
) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images = [np.kron(image, np.ones((height // 8, width // 8, 1), np.uint8)) for image in base]
    rows = pd.DataFrame({"prompt": list("abcde")}, index=pd.Index([7, 3, 20, 21, 22], name="row"))
    write_shard(tmp_path / "shard.zip", rows, images)
    names = [image_name(row) for row in rows.index]
    got = image_embeddings(judge, read_pictures(tmp_path / "shard.zip", names), names, batch=batch)
    assert got.shape == (5, 8)
    assert got.dtype == np.float32
    for embedding, image in zip(got, images, strict=True):
        pixels = judge.processor(images=image, return_tensors="pt").pixel_values
        want = judge.model.get_image_features(pixel_values=pixels).pooler_output[0].numpy()
        assert np.allclose(embedding, want, atol=1e-4)
    assert min(abs(got[j] - got[k]).max() for j in range(5) for k in range(j)) > 1e-2


@pytest.mark.parametrize("batch", [1, 4, 256])
@torch.no_grad()
def test_text_embeddings_are_those_of_each_prompt(judge: Judge, batch: int) -> None:
    got = text_embeddings(judge, PROMPTS, batch=batch)
    assert got.shape == (6, 8)
    assert got.dtype == np.float32
    for embedding, prompt in zip(got, PROMPTS, strict=True):
        tokens = judge.tokenizer(prompt).input_ids
        tokens = (tokens if len(tokens) <= 77 else tokens[:76] + tokens[-1:]) + [judge.tokenizer.pad_token_id] * 77
        want = judge.model.get_text_features(input_ids=torch.tensor([tokens[:77]])).pooler_output[0].numpy()
        assert np.allclose(embedding, want, atol=1e-4)
    assert abs(got[0] - got[2]).max() > 1e-2


def test_a_judge_in_half_precision_is_loaded_in_float32(clip_folder: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(clip_folder).half().save_pretrained(tmp_path)
    CLIPTokenizer.from_pretrained(clip_folder).save_pretrained(tmp_path)
    CLIPImageProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path)
    model = load_judge(str(tmp_path), device=CPU).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_what_is_measured_of_a_shard_and_of_real_images(judge: Judge) -> None:
    rng = np.random.default_rng(1)
    images = list(rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    rows = pd.DataFrame({"prompt": ["a ship", "x " * 200, "a bird"]}).rename_axis("row")
    columns = measure(judge, iter(images), rows)
    assert list(columns) == ["image", "text"]
    assert np.array_equal(columns["image"], image_embeddings(judge, iter(images), ["a"] * 3))
    assert np.array_equal(columns["text"], text_embeddings(judge, list(rows["prompt"])))
    (note,) = notes(judge, rows)
    assert note[0] == 1
    assert note[1].startswith("{} prompts are longer than the 77 tokens that ")
    real = pd.DataFrame({"name": ["b.png", "a.png", "c.png"]}).rename_axis("row")
    assert list(measure(judge, iter(images), real)) == ["image"]
    assert notes(judge, real) == []


def test_a_measure_is_loaded_from_its_settings(clip_folder: Path) -> None:
    model = load({"model": str(clip_folder), "revision": None}, CPU)
    assert texts(model, ["a"])["text"].shape == (1, 8)
