"""Pictures of the emoji world: icons, places, their masks and how many of each there are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emoji_world.renders import Variation, compose, draw_place, make_pictures, render_icons, svg_of
from emoji_world.world import PLACES, Style, Thing, World

COLLECTION = {
    "prefix": "tiny",
    "width": 20,
    "height": 10,
    "icons": {
        "box": {"body": '<path fill="#f00" stroke="#0f0" d="M4 2h4v4h-4z"/>'},
        "line": {"body": '<path fill="none" stroke="#000" d="M0 5h20"/>', "height": 40},
        "mixed": {"body": '<g fill="none"><path fill="#000" d="M1 1h1"/><path fill="red" stroke="none" d="M2 2"/></g>'},
    },
}


# Icons


def test_svg_of_holds_the_icon_and_its_frame() -> None:
    svg = svg_of(COLLECTION, "box", lines=False)
    assert 'viewBox="0 0 20 10" width="96" height="96"' in svg
    assert COLLECTION["icons"]["box"]["body"] in svg
    assert 'viewBox="0 0 20 40"' in svg_of(COLLECTION, "line", lines=False)
    assert 'viewBox="0 0 16 16"' in svg_of({"prefix": "p", "icons": {"a": {"body": ""}}}, "a", lines=False)


def test_lines_drop_coloured_fills_and_blacken_strokes() -> None:
    assert '<path fill="none" stroke="#000" d="M4' in svg_of(COLLECTION, "box", lines=True)
    mixed = svg_of(COLLECTION, "mixed", lines=True)
    assert '<path fill="#000" d="M1 1h1"/>' in mixed
    assert '<path fill="none" stroke="none" d="M2 2"/>' in mixed


def test_an_icon_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="the collection 'tiny' has no icon 'ship'"):
        svg_of(COLLECTION, "ship", lines=False)


def test_icons_fill_their_frame(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    (tmp_path / "tiny.json").write_text(json.dumps(COLLECTION))
    things = (Thing("box", "box", "c", ("x",)), Thing("line", "line", "c", ("y",)))
    styles = tuple(Style(name, "tiny", name, "MIT", "nobody") for name in ("colour", "lines"))
    icons = render_icons(World(things, styles), tmp_path)
    assert icons.shape == (2, 2, 96, 96, 4)
    red, black = icons[0, 0], icons[0, 1]
    assert (red[36:60, 36:60] == (255, 0, 0, 255)).all()  # a small box in a corner is scaled up to its frame
    assert (red[..., 3] > 127).mean() > 0.9
    assert (black[36:60, 36:60, 3] == 0).all()  # only its outline is left, in black
    assert black[..., 3].max() == 255
    assert black[black[..., 3] == 255][:, :3].max() < 10
    line = icons[1, 0][..., 3] > 127
    assert line.any(axis=0).mean() > 0.95  # the longer side fills the frame
    assert line.any(axis=1).mean() < 0.15


# Composites


@pytest.mark.parametrize("seed", range(24))
def test_a_composite_is_an_icon_on_a_plain_field_and_its_mask(icons: np.ndarray, seed: int) -> None:
    icon = icons[seed, seed % 5]
    before = icon.copy()
    image, mask = compose(icon, np.random.default_rng(seed))
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((64, 64), bool)
    field = image[0, 0]
    assert field.min() > 160  # pastel
    changed = abs(image.astype(int) - field).max(axis=-1) > 12  # Lanczos rings a little around an edge
    assert changed[mask].all()
    grown = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(mask, step, axis)
            grown |= np.roll(np.roll(mask, step, axis), 1, 1 - axis) | np.roll(np.roll(mask, step, axis), -1, 1 - axis)
    assert grown[changed].all()  # nothing beyond the mask but its soft edge
    ink = (icon[..., 3] > 127).sum() / 96**2
    assert 0.70**2 * 64**2 * ink < mask.sum() < 0.90**2 * 64**2 * ink
    assert np.array_equal(icon, before)


def test_composites_follow_their_generator(icons: np.ndarray) -> None:
    first, again, other = (compose(icons[0, 0], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 150, 250), (0.0, 400, 400), (1.0, 0, 0)])
def test_a_share_of_the_composites_is_mirrored(share: float, low: int, high: int) -> None:
    icon = np.zeros((96, 96, 4), np.uint8)
    icon[:, :48, 3] = 255  # ink on the left
    rng, variation = np.random.default_rng(3), Variation(mirrored=share)
    masks = [compose(icon, rng, variation)[1] for _ in range(400)]
    left = sum(mask[:, :32].sum() > mask[:, 32:].sum() for mask in masks)
    assert low <= left <= high


@pytest.mark.parametrize(("scale", "shift"), [((0.5, 0.75), 3), ((0.8, 0.8), 0), ([0.78, 0.86], 1)])
def test_scale_and_shift_stay_within_the_variation(scale: tuple[float, float], shift: int) -> None:
    rng, variation = np.random.default_rng(3), Variation(scale=scale, shift=shift)
    icon, sides, places = np.full((96, 96, 4), 255, np.uint8), set(), set()
    for _ in range(300):
        _, mask = compose(icon, rng, variation)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert len(rows) == len(columns)
        sides.add(len(rows))
        places |= {int(line[0]) - (64 - len(line)) // 2 for line in (rows, columns)}
    assert min(sides) == round(64 * scale[0])
    assert max(sides) == round(64 * scale[1])
    assert places == set(range(-shift, shift + 1))


def test_pictures_are_composed_within_the_variation(icons: np.ndarray) -> None:
    large, small = (
        make_pictures(icons, 40, seed=1, variation=Variation(scale=(size, size))).masks.sum() for size in (0.8, 0.4)
    )
    assert small == pytest.approx(large / 4, rel=0.05)


# Places


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_an_image_of_its_own(place: str) -> None:
    first, again, other = (draw_place(place, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    others = [draw_place(name, np.random.default_rng(1)) for name in PLACES if name != place]
    assert min(abs(first.astype(int) - image).mean() for image in others) > 20


def test_another_place_is_refused() -> None:
    text = "draw_place: `place` must be one of sky, ground, street, water; got 'moon'"
    with pytest.raises(ValueError, match=text):
        draw_place("moon", np.random.default_rng(0))


# Sets of pictures


@pytest.mark.parametrize("n", [1000, 1685])
def test_pictures_have_their_shares(icons: np.ndarray, n: int) -> None:
    pictures = make_pictures(icons, n, seed=4)
    assert pictures.images.shape == (n, 64, 64, 3)
    assert pictures.masks.shape == (n, 64, 64)
    places = pictures.things < 0
    assert places.sum() == round(0.1 * n + 0.49)
    assert not pictures.masks[places].any()
    assert (pictures.styles[places] == -1).all()
    assert set(pictures.things[places]) == {-1, -2, -3, -4}
    assert pictures.masks[~places].any(axis=(1, 2)).all()
    counts = Counter(zip(pictures.things[~places].tolist(), pictures.styles[~places].tolist(), strict=True))
    assert set(counts) == {(thing, style) for thing in range(30) for style in range(5)}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert Counter(np.sign(pictures.things[: n // 2]).tolist())[-1] > 0.03 * n / 2  # in random order


def test_pictures_follow_their_seed_and_show_what_they_say(icons: np.ndarray) -> None:
    first, again, other = (make_pictures(icons, 60, seed=seed) for seed in (1, 1, 2))
    for name, values in vars(first).items():
        assert np.array_equal(values, getattr(again, name))
        assert not np.array_equal(values, getattr(other, name))
    for image, mask, thing, style in zip(*vars(first).values(), strict=True):
        if thing < 0:
            seen = min(
                PLACES, key=lambda name: abs(draw_place(name, np.random.default_rng(0)).astype(int) - image).mean()
            )
            assert seen == PLACES[thing]
        else:
            inner = np.asarray(Image.fromarray(mask).resize((16, 16)))  # some pixel well inside has the icon's colour
            assert inner.any()
            colour = np.median(image[mask], axis=0)
            assert abs(colour - icons[thing, style, 48, 48, :3]).max() <= 1
