"""Contact sheets: a concept's training images with the outlines of its masks.

Drawn with Pillow: matplotlib lays out a thousand of them in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lethe.files.whole import written_whole

CELL = 192  # pixels that an image's longer side has on the sheet, or nearly so
GAP = 8
LINE, HALO = (255, 0, 200), (255, 255, 255)
INK, ALARM = (0, 0, 0), (200, 0, 0)


def mask_sheet(
    path: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], found: Sequence[int], *, title: str
) -> None:
    """Write images (uint8 `[h, w, 3]`) with their masks' outlines (bool `[h, w]`, all of one size) as a grid in a PNG.

    Below each stand its number and the mask's share of it, or that nothing was `found` (0) there. Equal content gives
    equal bytes.
    """
    heading, small = _font(17), _font(13)
    tiles = [outlined(image, mask) for image, mask in zip(images, masks, strict=True)]
    columns = min(len(tiles), math.ceil(math.sqrt(2 * len(tiles))))
    height, width = tiles[0].shape[0] + 2 * GAP + small.size, tiles[0].shape[1] + GAP
    top = 2 * GAP + heading.size
    across = max(columns * width, math.ceil(heading.getlength(title)) + GAP) + GAP
    sheet = Image.new("RGB", (across, top + math.ceil(len(tiles) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, heading)
    for number, (tile, mask, count) in enumerate(zip(tiles, masks, found, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * width, top + row * height
        sheet.paste(Image.fromarray(tile), (x, y))
        said = f"{100 * mask.mean():.0f} %" if count else "nothing found"
        draw.text((x, y + tile.shape[0] + 1), f"{number}: {said}", INK if count else ALARM, small)
    with written_whole(path) as part:
        sheet.save(part, "PNG")


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image (uint8 `[h, w, 3]`) near `CELL` pixels a side, with the mask's edge (bool `[h, w]`) drawn on it.

    A small image grows by a whole factor. The line is two pixels wide inside the mask, its halo one pixel outside; a
    mask that reaches the frame has its edge there.
    """
    scale = CELL / max(mask.shape)
    scale = round(scale) if scale > 1 else scale
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    drawn = np.asarray(Image.fromarray(image).resize((width, height), way)).copy()
    large = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    drawn[_grown(large) & ~large] = HALO
    drawn[large & ~_shrunk(_shrunk(large))] = LINE
    return drawn


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels beside, above and below it."""
    around = np.pad(mask, 1)
    return mask | around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """The mask without the pixels beside, above or below which it, or the frame, ends."""
    around = np.pad(mask, 1)
    return mask & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface of the other figures; the one that Pillow carries has few letters beyond ASCII."""
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size, layout_engine=ImageFont.Layout.BASIC)
