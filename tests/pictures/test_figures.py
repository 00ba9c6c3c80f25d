"""Figures: which prompts they show, and that the picture holds the images in their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lethe.pictures.examples import COLUMNS, chosen_prompts, chosen_seeds, shown_columns
from lethe.pictures.figures import image_grid, lines_by_count, loss_curves

COUNTS = {"erased": "erased", "generality": "erased", "kept": "kept"}  # what counts of the rows of a role
ROWS = pd.DataFrame(
    [
        ("erased", "ship", "a ship"),
        ("erased", "ship", "a ship again"),
        ("erased", "cat", "a cat"),
        ("generality", "ship", "a boat"),
        ("generality", "ship", "a vessel"),
        ("generality", "dog", "a hound"),
        ("kept", "ship", "a ship"),
        ("kept", "dog", "a dog"),
        ("kept", "fish", "a fish"),
        ("kept", "fish", "a fish"),
        ("kept", "frog", "a frog"),
    ],
    columns=["role", "type", "prompt"],
)


@pytest.mark.parametrize(
    ("concepts", "kept", "expected"),
    [
        (["ship"], 2, ["a ship", "a boat", "a dog", "a fish"]),
        (["cat", "ship"], 9, ["a ship", "a cat", "a boat", "a dog", "a fish", "a frog"]),
        (["ship"], 0, ["a ship", "a boat"]),
        ([], 1, ["a ship"]),
    ],
)
def test_chosen_prompts(concepts: list[str], kept: int, expected: list[str]) -> None:
    before = ROWS.copy()
    chosen = chosen_prompts(ROWS, concepts, COUNTS, kept=kept)
    assert [prompt for _, prompt in chosen] == expected
    for role, prompt in chosen:
        assert ((ROWS["role"] == role) & (ROWS["prompt"] == prompt)).any()
    assert ROWS.equals(before)


@pytest.mark.parametrize(
    ("erased", "kept", "shown"),
    [
        (6, 7, (6, 7)),
        (13, 7, (13, 7)),
        (14, 7, (14, 6)),
        (6, 50, (6, 14)),
        (2000, 7, (14, 6)),
        (2000, 0, (20, 0)),
        (0, 99, (0, 20)),
    ],
)
def test_at_most_twenty_columns_fit(erased: int, kept: int, shown: tuple[int, int]) -> None:
    assert shown_columns(erased, kept) == shown
    assert sum(shown) == min(erased + kept, COLUMNS)


def many(concepts: int, *roles: str) -> pd.DataFrame:
    rows = [(role, f"thing {k}", f"a {role} {k}") for role in roles for k in range(concepts)]
    rows += [("kept", f"other {k}", f"an other {k}") for k in range(9)]
    return pd.DataFrame(rows, columns=["role", "type", "prompt"])


def test_of_many_concepts_the_worst_come_first() -> None:
    names = [f"thing {k}" for k in range(1000)]
    shares = pd.Series({"thing 700": 1.0, "thing 3": 0.5, "thing 990": 0.5})
    found = chosen_prompts(many(1000, "erased", "generality"), names, COUNTS, kept=7, recognised=shares)
    order = [700, 3, 990, 0, 1, 2, 4]
    assert found == [
        *(("erased", f"a erased {k}") for k in order),
        *(("generality", f"a generality {k}") for k in order),
        *(("kept", f"an other {k}") for k in range(6)),
    ]
    alone = chosen_prompts(many(1000, "erased"), names, COUNTS, kept=7, recognised=shares)
    assert [prompt for role, prompt in alone if role == "erased"][:4] == [f"a erased {k}" for k in (700, 3, 990, 0)]
    assert len(alone) == COLUMNS
    first = chosen_prompts(many(1000, "erased"), names, COUNTS, kept=7)
    assert first[0] == ("erased", "a erased 0")


def test_of_suites_without_roles_the_first_prompts_are_shown() -> None:
    rows = pd.DataFrame(
        [(suite, "", f"{suite} {k // 2}") for suite in ("mine", "other") for k in range(60)],
        columns=["role", "type", "prompt"],
    )
    found = chosen_prompts(rows, ["ship"], {"mine": "all", "other": "all"}, kept=7)
    assert found == [(suite, f"{suite} {k}") for suite in ("mine", "other") for k in range(10)]


def test_concepts_that_fit_stay_in_the_order_of_their_suite() -> None:
    shares = pd.Series({"thing 2": 1.0})
    found = chosen_prompts(
        many(3, "erased", "generality"), [f"thing {k}" for k in range(3)], COUNTS, kept=7, recognised=shares
    )
    assert [prompt for _, prompt in found[:3]] == ["a erased 0", "a erased 1", "a erased 2"]


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [([1, 2, 3], [1, 2]), ([3, 2, 1], [1, 2]), ([2904], [2904]), ([7, 7, 5, 6], [7, 5]), ([9, 2], [2, 9]), ([], [])],
)
def test_the_first_seeds_of_a_prompt_are_shown_where_others_are_wanted(seeds: list[int], shown: list[int]) -> None:
    assert chosen_seeds(seeds, 1, 2) == shown


def test_a_grid_of_a_thousand_concepts_is_no_wider_than_one_of_ten_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda self, title, **_: titles.append(title))
    image = np.zeros((8, 8, 3), np.uint8)
    for concepts in (6, 1000):
        columns = 2 * concepts + 7
        names = [f"a rather long name of a thing {k}" for k in range(columns)]
        image_grid(
            tmp_path / f"{concepts}.png",
            [[image] * (columns - 1) + [None]] * 2,
            columns=names,
            rows=["a", "b"],
            divider=2 * concepts,
            title="Erased",
        )
    sizes = [Image.open(tmp_path / f"{concepts}.png").size for concepts in (6, 1000)]
    assert sizes[1][0] <= 1.1 * sizes[0][0]
    assert titles == ["Erased", "Erased (20 of 2007 columns)"]


def test_a_place_without_an_image_stays_empty(tmp_path: Path) -> None:
    image = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    options = dict(columns=["x", "y"], rows=["a"], divider=1, title="t")
    image_grid(tmp_path / "a.png", [[image, image]], **options)
    image_grid(tmp_path / "b.png", [[image, None]], **options)
    ink = [
        (np.asarray(Image.open(tmp_path / name).convert("RGB")) == (255, 0, 0)).all(axis=2).sum()
        for name in ("a.png", "b.png")
    ]
    assert ink[0] == pytest.approx(2 * ink[1], rel=0.02)


def grid(path: Path, colours: list[list[tuple[int, int, int]]], divider: int) -> np.ndarray:
    images = [[np.full((8, 8, 3), colour, np.uint8) for colour in line] for line in colours]
    names = [f"column {k}" for k in range(len(colours[0]))]
    image_grid(path, images, columns=names, rows=["before", "after"], divider=divider, title="Odd: $x_1$ & <b>")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


COLOURS = [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 0, 255), (0, 255, 255), (128, 128, 0)]]


@pytest.mark.parametrize("divider", [0, 1, 3])
def test_the_grid_is_a_png_of_its_size_with_every_image_in_its_place(tmp_path: Path, divider: int) -> None:
    picture = grid(tmp_path / "deep" / "grid.png", COLOURS, divider)
    assert picture.shape == (int((0.9 * 2 + 0.9) * 150), int((0.9 * 3.25 + 1.4) * 150), 3)
    centres = np.array(
        [[np.argwhere((picture == colour).all(axis=-1)).mean(axis=0) for colour in line] for line in COLOURS]
    )
    assert (centres[1, :, 0] > centres[0, :, 0] + 50).all()  # the second row is below
    assert (np.diff(centres[:, :, 1], axis=1) > 50).all()  # columns go to the right
    gaps = np.diff(centres[0, :, 1])
    if divider == 1:
        assert gaps[0] > gaps[1] + 10  # what is erased stands apart
    else:
        assert gaps[0] == pytest.approx(gaps[1], abs=2)


def test_a_figure_twice_is_the_same_bytes(tmp_path: Path) -> None:
    grid(tmp_path / "a.png", COLOURS, 1)
    grid(tmp_path / "b.png", COLOURS, 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_figure_is_closed() -> None:
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def drawn(path: Path, curves: dict[str, list[float]], **options: int) -> np.ndarray:
    loss_curves(path, {name: pd.Series(values) for name, values in curves.items()}, title="x", **options)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def ink(picture: np.ndarray, colour: tuple[int, int, int]) -> set[int]:
    """Rows of a picture in which a colour appears."""
    return set(np.where((picture == colour).all(axis=2).any(axis=1))[0].tolist())


def test_loss_curves_shows_running_means(tmp_path: Path) -> None:
    blue = (31, 119, 180)  # matplotlib's first colour
    level = drawn(tmp_path / "a.png", {"ship": [1.0] * 20, "top": [2.0] * 20}, window=5, named=0)
    jumping = drawn(tmp_path / "b.png", {"ship": [2.0, 0.0] * 10, "top": [2.0] * 20}, window=2, named=0)
    assert len(ink(level, blue)) < 8
    assert ink(level, blue) <= ink(jumping, blue)  # the mean of 2 and 0, after the first step
    alone = drawn(tmp_path / "c.png", {"ship": [2.0, 0.0] * 10, "top": [2.0] * 20}, window=1, named=0)
    assert max(ink(alone, blue)) > max(ink(jumping, blue))


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "$(rm -rf ~)$", "花", "a" * 300])
def test_loss_curves_takes_any_name(tmp_path: Path, name: str) -> None:
    named = drawn(tmp_path / "a.png", {name: [1.0, 0.5]})
    unnamed = drawn(tmp_path / "b.png", {name: [1.0, 0.5]}, named=0)
    assert named.shape == unnamed.shape
    assert (named != unnamed).any()


def by_count(path: Path, values: dict[str, list[float]], *, half: float) -> np.ndarray:
    """The picture of one number of methods at 1, 10 and 100 concepts, each with an interval of so much either way."""
    rows = [
        (method, "h_c", count, value, value - half, value + half)
        for method, line in values.items()
        for count, value in zip((100, 1, 10), line, strict=True)
    ]
    columns = ["method", "number", "concepts", "value", "low", "high"]
    lines_by_count(path, pd.DataFrame(rows, columns=columns), title="x")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_lines_of_more_methods_than_there_are_colours_differ(tmp_path: Path) -> None:
    """The first and the eleventh change places, and that shows."""
    between = {f"method {k}": [50.0] * 3 for k in range(9)}
    up = by_count(tmp_path / "a.png", {"first": [90.0] * 3, **between, "last": [10.0] * 3}, half=1)
    down = by_count(tmp_path / "b.png", {"first": [10.0] * 3, **between, "last": [90.0] * 3}, half=1)
    assert (up != down).any()


def test_lines_by_count_are_as_high_as_their_numbers_with_a_band_around(tmp_path: Path) -> None:
    blue, orange = (31, 119, 180), (255, 127, 14)  # matplotlib's first colours
    picture = by_count(tmp_path / "a.png", {"mace": [80.0] * 3, "uce": [20.0] * 3}, half=1)
    left = picture[:, : picture.shape[1] // 2]  # without the legend
    high, low = (np.mean(sorted(ink(left, colour))) for colour in (blue, orange))
    assert high < low
    falling = by_count(
        tmp_path / "b.png", {"mace": [10.0, 90.0, 50.0]}, half=1
    )  # most concepts first: sorted when drawn
    columns = np.where((falling[:, : falling.shape[1] // 2] == blue).all(axis=2).any(axis=0))[0]
    heights = [np.where((falling[:, column] == blue).all(axis=1))[0].mean() for column in (columns[8], columns[-8])]
    assert heights[0] < heights[1]
    wide = by_count(tmp_path / "c.png", {"mace": [80.0] * 3}, half=15)
    narrow = by_count(tmp_path / "d.png", {"mace": [80.0] * 3}, half=1)
    assert (wide != 255).any(axis=2).sum() > 1.2 * (narrow != 255).any(axis=2).sum()
