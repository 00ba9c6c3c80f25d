"""Which images and numbers the pictures of attacks show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lethe.pictures import attacks
from lethe.pictures.attacks import Pair, beside, curves, pairs, relearned, strongest
from lethe.pictures.figures import plt

EDITS = [["original", "original"], ["uce", "t/uce"]]


def trial(edit: str, p: float, **more: object) -> dict[str, object]:
    row = dict(edit=edit, probe="uda", concept="ship", arm="attack", phase="report", best=True, part="p", prompt="x")
    return row | dict(seed=1, reporter_p=p, reporter_yes=p > 0.5) | more


def test_the_surest_success_on_fresh_seeds_is_shown_beside_the_base() -> None:
    rows = [
        trial("t/uce", 0.9, seed=3),
        trial("t/uce", 0.95, concept="cat", seed=2),
        trial("t/uce", 0.95, concept="bird", seed=2),  # as sure, and first by name
        trial("t/uce", 0.99, phase="search"),
        trial("t/uce", 0.99, arm="random-search"),
        trial("t/uce", 0.99, best=False),
        trial("t/uce", 0.99, probe="other"),
        trial("t/uce", 0.99, reporter_yes=False),
        trial("original", 0.3, concept="bird", seed=2, prompt="own"),
        trial("original", 0.9, concept="bird", seed=3),
    ]
    for order in (rows, rows[::-1]):
        mine, base = strongest(pd.DataFrame(order), "t/uce", "uda")
        assert (mine["concept"], mine["seed"], base["seed"], base["prompt"]) == ("bird", 2, 2, "own")
    assert strongest(pd.DataFrame(rows[7:]), "t/uce", "uda") is None
    assert strongest(pd.DataFrame(rows[:1]), "t/uce", "uda")[1] is None


def test_relearning_is_counted_by_edit_sort_and_steps() -> None:
    rows = [trial("t/uce", p, part="concept images, 5 steps") for p in (0.9, 0.9, 0.9, 0.1)]
    rows += [trial("t/uce", 0.1, part="other images, 5 steps"), trial("t/uce", 0.9, part="name")]
    rows += [trial("original", 0.1, part="new word, 10 steps", arm="control")]
    found = relearned(pd.DataFrame(rows), EDITS).set_index(["line", "sort", "steps"])
    point = found.loc[("uce", "concept images", 5)]
    assert (point["value"], point["n"]) == (75, 4)
    assert point["low"] == pytest.approx(30.06, abs=0.01)  # Wilson's, of 3 in 4
    assert point["high"] == pytest.approx(95.44, abs=0.01)
    assert set(found.index) == {
        ("uce", "concept images", 5),
        ("uce", "other images", 5),
        ("new word", "new word", 10),
    }


def test_thirteen_methods_have_lines_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"method {number}" for number in range(13)]
    rows = [trial(f"t/{name}", 0.9, part=f"concept images, {n} steps") for name in names for n in (0, 5)]
    rows += [trial("original", 0.1, part="new word, 5 steps", arm="control")]
    found = relearned(pd.DataFrame(rows), [["original", "original"], *([name, f"t/{name}"] for name in names)])
    drawn = {}
    monkeypatch.setattr(attacks, "save_panels", lambda figure, axes, *_, **__: drawn.update(figure=figure))
    curves(tmp_path / "curves.png", found, title="t")
    lines = drawn["figure"].axes[0].get_lines()
    plt.close(drawn["figure"])
    looks = {line.get_label(): (line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert looks.keys() == {*names, "new word"}
    assert len(set(looks.values())) == 14


def test_pictures_are_written_where_nothing_was_found_too(tmp_path: Path) -> None:
    image = np.full((8, 8, 3), 7, np.uint8)
    both = beside(Pair(image, image + 1, "ship"))
    assert both.shape == (8, 17, 3)
    for part, value in ((both[:, :8], 7), (both[:, 8], 255), (both[:, 9:], 8)):
        assert (part == value).all()
    assert (beside(Pair(image, None, "ship"))[:, 9:] == 255).all()
    grid = [[Pair(image, image, "ship: $x$ " + "long " * 40), None]]
    pairs(tmp_path / "pairs.png", grid, columns=["uce", "mace"], rows=["uda"], title="t")
    curves(tmp_path / "curves.png", relearned(pd.DataFrame([trial("t/uce", 0.9)]), EDITS), title="t")
    for name in ("pairs", "curves"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 300
