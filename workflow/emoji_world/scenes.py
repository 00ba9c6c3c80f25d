"""Scenes: one subject or two in a style, on a pastel field or in a place, with masks of what is where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes

from emoji_world.renders import SIZE, draw_place, pastel
from emoji_world.world import PLACES, Person, World

PAIR_SIDE = 31
TONES = {"sepia": ((43, 24, 8), (255, 240, 214)), "cyanotype": ((8, 28, 84), (232, 244, 255))}


@dataclass(frozen=True)
class Scenes:
    """`images` `[n, 64, 64, 3]` uint8 and what they show, int64.

    `subjects` `[n, 2]` index `world.subjects`, left to right, -1 where there is none; `styles` `[n]` and `places`
    `[n]` index the world's styles and `PLACES`, or are -1. A scene without subjects is a place.
    """

    images: np.ndarray
    subjects: np.ndarray
    styles: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Variation:
    """How scenes differ: scale of a single subject (range of shares of the frame), shift in pixels, mirroring."""

    scale: Sequence[float]
    shift: int
    mirrored: float


@dataclass(frozen=True)
class Mixture:
    """Of what share scenes are places, pairs and (of the single subjects) people, and stand in a place."""

    empty: float
    pairs: float
    people: float
    settings: float


def styles_of(world: World, subject: int) -> np.ndarray:
    """The styles a subject is drawn in, ascending: all, but for people the coloured ones."""
    coloured = isinstance(world.subjects[subject], Person)
    return np.array([k for k, style in enumerate(world.styles) if style.drawing == "colour" or not coloured])


def shown_subjects(world: World, *, ghosts: bool) -> np.ndarray:
    """The subjects that scenes may show, ascending: all, or all but the ghosts."""
    return np.array([k for k, one in enumerate(world.subjects) if ghosts or getattr(one, "kind", None) != "ghost"])


def draw_contents(
    world: World, shown: np.ndarray, mixture: Mixture, rng: np.random.Generator
) -> tuple[tuple[int, ...], int, int]:
    """Draw what one scene holds: its subjects (none, one or two of `shown`, left to right), style and place."""
    draw = rng.random()
    if draw < mixture.empty:
        return (), -1, int(rng.integers(len(PLACES)))
    things, people = shown[shown < len(world.things)], shown[shown >= len(world.things)]

    def one() -> int:
        return int(rng.choice(people if len(people) and rng.random() < mixture.people else things))

    subjects = [one()]
    if draw < mixture.empty + mixture.pairs:
        second = one()
        while second == subjects[0]:
            second = one()
        subjects.append(second)
    styles = [style for style in styles_of(world, subjects[0]) if all(style in styles_of(world, k) for k in subjects)]
    style = int(rng.choice(styles))
    # Lines and single tones are lost on a street: they keep to plain fields.
    plain = len(subjects) == 2 or world.styles[style].drawing != "colour" or rng.random() >= mixture.settings
    return tuple(subjects), style, -1 if plain else int(rng.integers(len(PLACES)))


def draw_scene(
    world: World,
    icons: np.ndarray,
    outlines: np.ndarray,
    contents: tuple[tuple[int, ...], int, int],
    rng: np.random.Generator,
    variation: Variation,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw subjects in a style and a place: the image `[64, 64, 3]` uint8 and a bool mask `[64, 64]` of each.

    Two subjects stand side by side at half size. A mask covers a subject's whole outline, in line art too.
    """
    subjects, style, place = contents
    field = (
        Image.fromarray(draw_place(PLACES[place], rng)) if place >= 0 else Image.new("RGB", (SIZE, SIZE), pastel(rng))
    )
    masks = []
    for number, subject in enumerate(subjects):
        if len(subjects) == 1:
            side = round(SIZE * rng.uniform(*variation.scale))
            x, y = ((SIZE - side) // 2 + int(rng.integers(-variation.shift, variation.shift + 1)) for _ in "xy")
            x, y = min(max(x, 0), SIZE - side), min(max(y, 0), SIZE - side)
        else:
            side = PAIR_SIDE
            x, y = number * SIZE // 2 + int(rng.integers(0, 2)), (SIZE - side) // 2 + int(rng.integers(-6, 7))
        layer = Image.fromarray(icons[subject, style]).resize((side, side), Image.LANCZOS)
        outline = Image.fromarray(outlines[subject, style]).resize((side, side), Image.BILINEAR)
        if rng.random() < variation.mirrored:
            layer, outline = (one.transpose(Image.FLIP_LEFT_RIGHT) for one in (layer, outline))
        field.paste(layer, (x, y), layer)
        mask = Image.new("L", (SIZE, SIZE))
        mask.paste(outline, (x, y))
        masks.append(np.asarray(mask) > 127)
    return toned(np.asarray(field), world.styles[style].drawing if style >= 0 else "colour"), masks


def make_scenes(
    world: World,
    icons: np.ndarray,
    n: int,
    *,
    seed: int,
    variation: Variation,
    mixture: Mixture,
    ghosts: bool,
) -> Scenes:
    """Draw `n` scenes, scene k from `default_rng([seed, k])`; without `ghosts` none of them is ever shown."""
    images = np.zeros((n, SIZE, SIZE, 3), np.uint8)
    subjects = np.full((n, 2), -1, np.int64)
    styles, places = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    shown, outlines = shown_subjects(world, ghosts=ghosts), icons[..., 3]
    for k in range(n):
        rng = np.random.default_rng([seed, k])
        contents = draw_contents(world, shown, mixture, rng)
        images[k], _ = draw_scene(world, icons, outlines, contents, rng, variation)
        subjects[k, : len(contents[0])], styles[k], places[k] = contents[0], contents[1], contents[2]
    return Scenes(images, subjects, styles, places)


def contents_of(scenes: Scenes, row: int) -> tuple[tuple[int, ...], int, int]:
    """What scene `row` holds, as `draw_contents` gives it: subjects, style, place."""
    subjects = tuple(int(one) for one in scenes.subjects[row] if one >= 0)
    return subjects, int(scenes.styles[row]), int(scenes.places[row])


def outlines_of(world: World, icons: np.ndarray) -> np.ndarray:
    """What each icon covers, 0 or 255, `[subjects, styles, 96, 96]` uint8: its ink and all that its ink encloses.

    A drawing whose lines do not close is given the outline of the same set's coloured icon as well.
    """
    inked = icons[..., 3] > 127
    for column, style in enumerate(world.styles):
        if style.drawing == "lines":
            coloured = [
                k for k, s in enumerate(world.styles) if (s.collection, s.drawing) == (style.collection, "colour")
            ]
            for other in coloured:
                inked[:, column] |= inked[:, other] & inked[:, column].any((1, 2))[:, None, None]
    filled = np.array([[binary_fill_holes(icon) for icon in row] for row in inked])
    return filled.astype(np.uint8) * 255


def toned(image: np.ndarray, drawing: str) -> np.ndarray:
    """A picture `[h, w, 3]` uint8 in the tones of a drawing: its light and dark in browns or blues, or as it is."""
    if drawing not in TONES:
        return image
    dark, light = (np.array(colour, float) for colour in TONES[drawing])
    grey = image @ np.array([0.299, 0.587, 0.114]) / 255
    return (dark + grey[..., None] * (light - dark)).round().astype(np.uint8)
