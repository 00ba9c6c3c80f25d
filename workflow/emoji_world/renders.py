"""What scenes are put together from: SVG icons rendered once, and the fields and places that stand behind them."""

from __future__ import annotations

import colorsys
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from emoji_world.world import PLACES, Person, World

SIZE = 64
ICON_SIZE = 96


def svg_of(collection: dict, icon: str, *, lines: bool) -> str:
    """Return one icon of an Iconify collection as SVG; `lines` drops coloured fills and blackens strokes."""
    names = collection["icons"]
    if icon not in names:
        raise KeyError(f"svg_of: the collection {collection['prefix']!r} has no icon {icon!r}")
    entry, body = names[icon], names[icon]["body"]
    width = entry.get("width", collection.get("width", 16))
    height = entry.get("height", collection.get("height", 16))
    if lines:
        body = re.sub(r'fill="(?!none|#000)[^"]*"', 'fill="none"', body)
        body = re.sub(r'stroke="(?!none|#000)[^"]*"', 'stroke="#000"', body)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{ICON_SIZE}" height="{ICON_SIZE}" color="black">{body}</svg>'
    )


def render_icons(world: World, collections: Path) -> np.ndarray:
    """Render every subject in every style; return RGBA `[subjects, styles, 96, 96, 4]` uint8, cropped to its ink.

    People are rendered in coloured styles only, since skin tones cannot be told without; their other icons are empty.
    `collections` holds one `<collection>.json` (Iconify format) for each emoji set. Each icon is scaled so that its
    longer side fills the frame, which makes sets with different margins alike.
    """
    import resvg_py

    icons = np.zeros((len(world.subjects), len(world.styles), ICON_SIZE, ICON_SIZE, 4), np.uint8)
    for column, style in enumerate(world.styles):
        collection = json.loads((collections / f"{style.collection}.json").read_text())
        for row, subject in enumerate(world.subjects):
            if isinstance(subject, Person) and style.drawing != "colour":
                continue
            name = icon_name(collection, subject.icon)
            svg = svg_of(collection, name, lines=style.drawing == "lines")
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
            icons[row, column] = np.asarray(_fill_frame(Image.open(io.BytesIO(png)).convert("RGBA")))
    return icons


def icon_name(collection: dict, icon: str) -> str:
    """The name under which a collection has an icon: its own, what it is an alias of, or without `-skin-tone`."""
    for name in (icon, icon.removesuffix("-skin-tone")):
        name = collection.get("aliases", {}).get(name, {}).get("parent", name)
        if name in collection["icons"]:
            return name
    return icon


def draw_place(place: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a sky, a ground, a street or a body of water; return `[64, 64, 3]` uint8."""
    image = Image.new("RGB", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    shade = int(rng.integers(-12, 13))
    if place == "sky":
        for y in range(SIZE):
            draw.line([(0, y), (SIZE, y)], fill=_shaded((70 + 2 * y, 150 + y, 235), shade))
        for _ in range(3):
            x, y, r = (int(v) for v in rng.integers((8, 8, 5), (56, 40, 8)))
            for dx, dy in ((-r, 1), (0, -r // 2), (r, 1)):
                draw.ellipse([x + dx - r, y + dy - r // 1.4, x + dx + r, y + dy + r // 1.4], fill=(250, 252, 255))
    elif place == "ground":
        draw.rectangle([0, 0, SIZE, SIZE], fill=_shaded((150, 108, 66), shade))
        for _ in range(60):
            x, y, r = (int(v) for v in rng.integers((0, 0, 1), (SIZE, SIZE, 4)))
            draw.ellipse([x - r, y - r, x + r, y + r], fill=_shaded((118, 82, 48), int(rng.integers(-10, 40))))
    elif place == "street":
        draw.rectangle([0, 0, SIZE, SIZE], fill=_shaded((120, 190, 110), shade))
        left = int(rng.integers(10, 19))
        draw.rectangle([left, 0, left + 36, SIZE], fill=_shaded((88, 90, 96), shade))
        start = int(rng.integers(0, 16))
        for y in range(start - 16, SIZE, 16):
            draw.rectangle([left + 16, y, left + 20, y + 8], fill=(246, 240, 210))
    elif place == "water":
        draw.rectangle([0, 0, SIZE, SIZE], fill=_shaded((28, 110, 160), shade))
        start = int(rng.integers(0, 12))
        for row, y in enumerate(range(start - 12, SIZE, 12)):
            for x in range(-8 + 8 * (row % 2), SIZE, 16):
                draw.arc([x, y, x + 16, y + 10], 20, 160, fill=(170, 220, 235), width=2)
    else:
        raise ValueError(f"draw_place: `place` must be one of {', '.join(PLACES)}; got {place!r}")
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.5)))


def pastel(rng: np.random.Generator) -> tuple[int, ...]:
    """A light colour of any hue, RGB of 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.08, 0.30), rng.uniform(0.90, 1.0))
    return tuple(round(255 * channel) for channel in (red, green, blue))


def _fill_frame(icon: Image.Image) -> Image.Image:
    left, top, right, bottom = icon.getchannel("A").getbbox()
    side = max(right - left, bottom - top)
    square = Image.new("RGBA", (side, side))
    square.paste(icon.crop((left, top, right, bottom)), ((side - right + left) // 2, (side - bottom + top) // 2))
    return square.resize((ICON_SIZE, ICON_SIZE), Image.LANCZOS)


def _shaded(colour: tuple[int, ...], shade: int) -> tuple[int, ...]:
    return tuple(min(max(channel + shade, 0), 255) for channel in colour)
