"""Masks: where a stub of a segmenter says the concept is, in the images' own size, and what nothing found means."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPSegForImageSegmentation, CLIPTokenizer

from lethe.masks import full_frames, resized, segment


@pytest.fixture
def parts(clipseg_folder: Path) -> tuple[CLIPSegForImageSegmentation, CLIPTokenizer, CLIPImageProcessor]:
    return (
        CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval(),
        CLIPTokenizer.from_pretrained(clipseg_folder),
        CLIPImageProcessor.from_pretrained(clipseg_folder),
    )


class Stub:
    """A segmenter that answers with given logits and keeps what it was asked."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, **asked: torch.Tensor) -> SimpleNamespace:
        self.asked = asked
        return SimpleNamespace(logits=self.logits)


def some_images(n: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (48, 80), (20, 33)])
def test_masks_have_the_images_size(parts: tuple, n: int, height: int, width: int) -> None:
    masks = segment(*parts, some_images(n, height, width), "ship", threshold=0.5)
    assert masks.shape == (n, height, width)
    assert masks.dtype == bool


def by_interpolation(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each column, then each row, linear between the centres of the model's pixels."""
    y, x = ((np.arange(new) + 0.5) * old / new for new, old in zip((height, width), logits.shape, strict=True))
    tall = np.stack([np.interp(y, np.arange(len(column)) + 0.5, column) for column in logits.T], axis=1)
    return np.stack([np.interp(x, np.arange(len(row)) + 0.5, row) for row in tall])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (20, 33)])
def test_masks_are_the_models_logits_above_the_threshold(parts: tuple, height: int, width: int) -> None:
    clipseg, tokenizer, processor = parts
    images = some_images(3, height, width)
    with torch.no_grad():
        logits = clipseg(
            input_ids=torch.tensor([tokenizer("ship", padding="max_length").input_ids] * 3),
            pixel_values=processor(images=images, return_tensors="pt").pixel_values,
        ).logits
    wanted = np.stack([by_interpolation(one, height, width) for one in logits.double().numpy()])
    threshold = 1 / (1 + np.exp(-np.median(wanted)))
    masks = segment(*parts, images, "ship", threshold=threshold)
    sure = abs(wanted - np.median(wanted)) > 1e-3  # away from the threshold, where rounding decides
    assert np.array_equal(masks[sure], (wanted > np.median(wanted))[sure])
    assert sure.mean() > 0.99
    assert 0.4 < masks.mean() < 0.6
    assert not np.array_equal(masks, segment(*parts, images, "a bird on the ground", threshold=threshold))


def test_masks_keep_the_place(parts: tuple) -> None:
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, :4] = 9  # the upper half
    logits[1, :, :2] = 9  # the left quarter
    stub = Stub(logits)
    masks = segment(stub, *parts[1:], some_images(2, 16, 32), "ship", threshold=0.5)
    upper, left = np.zeros((16, 32), bool), np.zeros((16, 32), bool)
    upper[:8], left[:, :8] = True, True
    assert np.array_equal(masks, [upper, left])
    assert stub.asked["pixel_values"].shape == (2, 3, 32, 32)
    assert stub.asked["input_ids"].tolist() == [parts[1]("ship", padding="max_length").input_ids] * 2


def test_nothing_found_is_the_full_frame_and_a_warning(parts: tuple, caplog: pytest.LogCaptureFixture) -> None:
    logits = torch.full((3, 4, 4), -9.0)
    logits[1, 0, 0] = 9
    with caplog.at_level(logging.WARNING):
        masks = segment(Stub(logits), *parts[1:], some_images(3, 8, 8), "AC/DC", threshold=0.5)
    assert masks[0].all()
    assert masks[2].all()
    assert 0 < masks[1].mean() < 0.3
    assert [record.getMessage() for record in caplog.records] == [
        f"nothing found for 'AC/DC' in image {number}: its mask is the full frame" for number in (0, 2)
    ]


def test_resized_takes_the_logits_of_one_image_without_its_first_dimension() -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(resized(logits, (2, 3)), logits[None])
    assert torch.equal(resized(logits[None], (4, 6)), resized(logits, (4, 6)))


def test_full_frames_cover_everything() -> None:
    masks = full_frames(some_images(3, 5, 7))
    assert masks.shape == (3, 5, 7)
    assert masks.dtype == bool
    assert masks.all()
