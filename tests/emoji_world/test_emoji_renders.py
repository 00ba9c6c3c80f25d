"""Icons of the emoji world and the places behind them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emoji_world.renders import draw_place, icon_name, render_icons, svg_of
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


@pytest.mark.parametrize(
    ("icon", "found"),
    [("cook-dark-skin-tone", "cook-dark"), ("plane", "airplane"), ("ship", "ship"), ("nothing", "nothing")],
)
def test_icons_are_found_by_their_other_names(icon: str, found: str) -> None:
    collection = {"icons": {"cook-dark": {}, "airplane": {}, "ship": {}}, "aliases": {"plane": {"parent": "airplane"}}}
    assert icon_name(collection, icon) == found


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
