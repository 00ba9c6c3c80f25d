"""Photographs of scikit-image's wheel, free of rights and harmless."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(name: str, mode: str | None = None) -> np.ndarray:
    """A picture of scikit-image in a mode, or in its own, uint8 `[h, w, 3]` or `[h, w]`."""
    skimage = pytest.importorskip("skimage", reason="scikit-image, whose photographs this needs, is not installed")
    with Image.open(Path(skimage.data_dir) / f"{name}.png") as image:
        return np.array(image.convert(mode) if mode else image)
