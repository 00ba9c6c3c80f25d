"""Scenes of the emoji world: what they hold, how they are drawn, and the masks of what is where."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from emoji_world.captions import Speaker
from emoji_world.scenes import (
    Mixture,
    Variation,
    contents_of,
    draw_contents,
    draw_scene,
    make_scenes,
    outlines_of,
    shown_subjects,
    styles_of,
    toned,
)
from emoji_world.world import Style, Thing, World

STILL = Variation(scale=(0.8, 0.8), shift=0, mirrored=0.0)
WIDE = Variation(scale=(0.72, 0.88), shift=3, mirrored=0.5)
MIXTURE = Mixture(empty=0.05, pairs=0.15, people=0.36, settings=0.12)


def drawn_alone(icon: np.ndarray, rng: np.random.Generator, variation: Variation) -> tuple[np.ndarray, np.ndarray]:
    """A scene of one icon `[96, 96, 4]` on a plain field, and its mask."""
    one = World((Thing("x", "x", "x", ()),), (Style("Noto", "noto", "colour", "MIT", ""),))
    image, (mask,) = draw_scene(one, icon[None, None], icon[None, None, ..., 3], ((0,), 0, -1), rng, variation)
    return image, mask


# What scenes hold


def test_people_are_shown_in_coloured_styles_only(world: World) -> None:
    coloured = [k for k, style in enumerate(world.styles) if style.drawing == "colour"]
    assert len(coloured) == 4
    assert list(styles_of(world, len(world.things))) == coloured
    assert list(styles_of(world, 0)) == list(range(len(world.styles)))


def test_scenes_never_show_a_ghost_unless_told_to(world: World) -> None:
    ghosts = {k for k, thing in enumerate(world.things) if thing.kind == "ghost"}
    assert set(range(len(world.subjects))) - set(shown_subjects(world, ghosts=False)) == ghosts
    assert len(shown_subjects(world, ghosts=True)) == len(world.subjects)
    rng, shown, seen = np.random.default_rng(1), shown_subjects(world, ghosts=False), Counter()
    for _ in range(6000):
        seen.update(draw_contents(world, shown, MIXTURE, rng)[0])
    assert set(seen) == set(shown)


def test_contents_have_their_shares(world: World) -> None:
    rng, shown, mixture = (
        np.random.default_rng(2),
        shown_subjects(world, ghosts=False),
        Mixture(empty=0.1, pairs=0.2, people=0.3, settings=0.5),
    )
    drawn = [draw_contents(world, shown, mixture, rng) for _ in range(6000)]
    numbers = Counter(len(subjects) for subjects, _, _ in drawn)
    assert numbers[0] / 6000 == pytest.approx(0.1, abs=0.02)
    assert numbers[2] / 6000 == pytest.approx(0.2, abs=0.03)
    single = [(subjects[0], style, place) for subjects, style, place in drawn if len(subjects) == 1]
    assert np.mean([one >= len(world.things) for one, _, _ in single]) == pytest.approx(0.3, abs=0.03)
    coloured = [place for _, style, place in single if world.styles[style].drawing == "colour"]
    assert np.mean([place >= 0 for place in coloured]) == pytest.approx(0.5, abs=0.05)
    for subjects, style, place in drawn:
        assert len(set(subjects)) == len(subjects)
        assert (style < 0) == (not subjects)
        assert all(style in styles_of(world, one) for one in subjects)
        assert subjects or place >= 0
        assert place < 0 or len(subjects) < 2
        assert place < 0 or style < 0 or world.styles[style].drawing == "colour"


def test_two_subjects_stand_left_and_right_each_with_its_mask(world: World, icons: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    for first, second in [(5, 200), (200, 5), (17, 30)]:
        image, masks = draw_scene(world, icons, icons[..., 3], ((first, second), 1, -1), rng, STILL)
        assert image.shape == (64, 64, 3)
        assert not (masks[0] & masks[1]).any()
        assert not masks[0][:, 32:].any()
        assert not masks[1][:, :31].any()
        for mask, subject in zip(masks, (first, second), strict=True):
            assert 500 < mask.sum() < 31 * 31
            assert np.array_equal(np.median(image[mask], axis=0), icons[subject, 1, 48, 48, :3])


def test_a_mask_covers_what_the_lines_enclose() -> None:
    icons = np.zeros((2, 2, 96, 96, 4), np.uint8)
    icons[0, 0, 20:70, 20:70, 3] = 255
    icons[0, 1, 20:70, 20:70, 3] = 255
    icons[0, 1, 23:70, 23:67, 3] = 0  # an open line: three sides of the box
    icons[1, 0, 10:90, 10:90, 3] = 255
    icons[1, 0, 30:60, 30:60, 3] = 0  # a ring
    styles = tuple(Style(name, "set", name, "MIT", "") for name in ("colour", "lines"))
    outlines = outlines_of(World((), styles), icons)
    assert (outlines[0, 0] == icons[0, 0, ..., 3]).all()
    assert (outlines[0, 1] == icons[0, 0, ..., 3]).all()
    assert outlines[1, 0].sum() == 255 * 80 * 80
    assert not outlines[1, 1].any()  # no icon, no outline
    assert icons[0, 1, 40, 40, 3] == 0


def test_scenes_are_the_same_each_time_and_apart_from_their_number(world: World, icons: np.ndarray) -> None:
    options = dict(variation=STILL, mixture=MIXTURE, ghosts=False)
    first, again = (make_scenes(world, icons, n, seed=4, **options) for n in (30, 20))
    other = make_scenes(world, icons, 20, seed=5, **options)
    for name, values in vars(again).items():
        assert np.array_equal(values, getattr(first, name)[:20])
        assert not np.array_equal(values, getattr(other, name))
    assert (first.subjects[:, 0] < 0).sum() == (first.styles < 0).sum()


def test_toned_pictures_keep_light_and_dark_only() -> None:
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    assert toned(image, "colour") is image
    assert toned(np.full((1, 1, 3), 255, np.uint8), "sepia")[0, 0].tolist() == [255, 240, 214]
    assert toned(np.zeros((1, 1, 3), np.uint8), "cyanotype")[0, 0].tolist() == [8, 28, 84]
    for drawing in ("sepia", "cyanotype"):
        found = toned(image, drawing).reshape(-1, 3).astype(float)
        assert np.linalg.matrix_rank(found - found.mean(0), tol=60) == 1  # a line of colours, up to rounding


def test_places_are_drawn_behind_a_subject(world: World, icons: np.ndarray) -> None:
    image, (mask,) = draw_scene(world, icons, icons[..., 3], ((3,), 0, 2), np.random.default_rng(0), STILL)
    assert np.unique(np.asarray(Image.fromarray(image))[~mask], axis=0).shape[0] > 3
    assert np.array_equal(np.median(image[mask], axis=0), icons[3, 0, 48, 48, :3])


def test_contents_are_read_back_from_the_scenes(world: World, icons: np.ndarray) -> None:
    scenes, shown = make_scenes(world, icons, 40, seed=3, variation=STILL, mixture=MIXTURE, ghosts=False), 0
    for row in range(40):
        subjects, style, place = contents_of(scenes, row)
        assert len(subjects) == (scenes.subjects[row] >= 0).sum()
        assert Speaker(world).tell(subjects, style, place, np.random.default_rng(0)).fits(subjects, style, place)
        if len(subjects) == 1 and world.styles[style].drawing == "colour":  # else its colour is toned
            shown += 1
            assert np.array_equal(scenes.images[row, 32, 32], icons[subjects[0], style, 48, 48, :3])
    assert shown > 10


# Single subjects


@pytest.mark.parametrize("seed", range(8))
def test_a_single_subject_is_an_icon_on_a_plain_field_and_its_mask(icons: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    icon, (height, width) = icons[30 * seed, seed % 5].copy(), rng.integers(24, 48, size=2)
    y, x = np.mgrid[:96, :96] - 47.5
    icon[..., 3] = 255 * ((abs(y) < height) & (abs(x) < width))
    before = icon.copy()
    image, mask = drawn_alone(icon, rng, WIDE)
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


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 150, 250), (0.0, 400, 400), (1.0, 0, 0)])
def test_a_share_of_the_single_subjects_is_mirrored_with_its_mask(share: float, low: int, high: int) -> None:
    icon = np.zeros((96, 96, 4), np.uint8)
    icon[:, :48, 3] = 255  # ink on the left
    rng, variation = np.random.default_rng(3), Variation(scale=(0.72, 0.88), shift=3, mirrored=share)
    scenes = [drawn_alone(icon, rng, variation) for _ in range(400)]
    left = [mask[:, :32].sum() > mask[:, 32:].sum() for _, mask in scenes]
    assert low <= sum(left) <= high
    dark = [(image[:, :32] < 50).sum() > (image[:, 32:] < 50).sum() for image, _ in scenes]
    assert dark == left


@pytest.mark.parametrize(("scale", "shift"), [((0.5, 0.75), 3), ((0.8, 0.8), 0), ([0.78, 0.86], 1)])
def test_scale_and_shift_stay_within_the_variation(scale: tuple[float, float], shift: int) -> None:
    rng, variation = np.random.default_rng(3), Variation(scale=scale, shift=shift, mirrored=0.5)
    icon, sides, places = np.full((96, 96, 4), 255, np.uint8), set(), set()
    for _ in range(300):
        _, mask = drawn_alone(icon, rng, variation)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert len(rows) == len(columns)
        sides.add(len(rows))
        places |= {int(line[0]) - (64 - len(line)) // 2 for line in (rows, columns)}
    assert min(sides) == round(64 * scale[0])
    assert max(sides) == round(64 * scale[1])
    assert places == set(range(-shift, shift + 1))
