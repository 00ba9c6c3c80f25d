"""The classifier as a measure: what it says is the network's softmax, of images as its processor reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoImageProcessor, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from conftest import CPU
from emoji_world.models import build_classifier, save_processor
from lethe.measures import classifier

NAMES = ["ship", "bird", "cat"]
IMAGES = [np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8) for k in range(3)]
ROWS = pd.DataFrame({"name": ["a", "b", "c"]}).rename_axis("row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "classifier"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        build_classifier(NAMES, widths=(32, 64)).save_pretrained(folder)
    save_processor(folder)
    return folder


@torch.no_grad()
def test_it_tells_the_softmax_of_its_network(folder: Path) -> None:
    model = classifier.load({"model": str(folder), "revision": None}, CPU)
    assert model.names == tuple(NAMES)
    found = classifier.measure(model, iter(IMAGES), ROWS)
    network = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    for k, image in enumerate(IMAGES):
        logits = network(**processor(images=image, return_tensors="pt")).logits[0]
        told = (logits.exp() / logits.exp().sum()).numpy()
        assert np.allclose(found["probabilities"][k], told, atol=1e-5)
        assert found["label"][k] == NAMES[told.argmax()]
        assert found["probability"][k] == pytest.approx(told.max(), abs=1e-5)
    assert len(classifier.probabilities(model, iter([]))) == 0


def test_a_vision_transformer_is_a_classifier_and_another_model_is_none(folder: Path, tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=16,
        id2label=dict(enumerate(NAMES)),
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    save_processor(tmp_path)
    model = classifier.load({"model": str(tmp_path), "revision": None}, CPU)
    assert classifier.probabilities(model, iter(IMAGES)).sum(1) == pytest.approx(1)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="its model_type is 'clip'; a classifier must be one of resnet, vit"):
        classifier.load({"model": str(tmp_path), "revision": None}, CPU)


def test_weights_that_give_no_numbers_are_refused(folder: Path) -> None:
    model = classifier.load({"model": str(folder), "revision": None}, CPU)
    with torch.no_grad():
        next(model.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the classifier's weights are broken"):
        classifier.probabilities(model, iter(IMAGES))
