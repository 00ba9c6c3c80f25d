"""Grey levels to [-1, 1], channels first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lethe.bases.pixels import to_imagenet_pixels, to_pixels


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_to_pixels_moves_channels_and_scales(kind: type) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    images[0, 0, 0] = 0, 255, 51
    before = images.copy()
    pixels = to_pixels(kind(images))
    assert pixels.dtype == torch.float32
    assert pixels.shape == (2, 3, 3, 5)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([-1, 1, -0.6], abs=1e-6)
    for image, y, x, c in np.ndindex(*images.shape):
        assert pixels[image, c, y, x].item() == pytest.approx(images[image, y, x, c] / 255 * 2 - 1, abs=1e-6)
    assert np.array_equal(images, before)


def test_imagenet_pixels_by_the_published_means_and_deviations() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    pixels = to_imagenet_pixels(images)
    for image, y, x, c in np.ndindex(*images.shape):
        mean, std = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)][c]
        expected = (images[image, y, x, c] / 255 - mean) / std
        assert pixels[image, c, y, x].item() == pytest.approx(expected, abs=1e-5)
