"""The table of styles against sums in float64, by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lethe.plugins import manifest
from lethe.tables import protocols
from lethe.tables.row import Row
from lethe.tables.styles import SOURCES, notes, parts_of, row, table_protocols

ERASED = {"concepts": ["Hokusai", "Monet"]}


def pairs(*types: str, seed: int) -> pd.DataFrame:
    """Images and their own prompts, as CLIP's embeddings of 5 numbers; lengths differ."""
    rng = np.random.default_rng(seed)
    columns = {name: list(rng.normal(0.4, 1, (len(types), 5)).astype(np.float32)) for name in ("image", "text")}
    return pd.DataFrame({"type": types, "row": range(len(types))} | columns)


def cosines(table: pd.DataFrame, types: list[str]) -> list[float]:
    """100 cos of each pair of some types, by sums over the numbers of embeddings."""
    found = []
    for pair in table[table["type"].isin(types)].itertuples():
        image, text = [float(x) for x in pair.image], [float(x) for x in pair.text]
        dot = sum(a * b for a, b in zip(image, text, strict=True))
        found.append(100 * dot / math.sqrt(sum(a * a for a in image) * sum(b * b for b in text)))
    return found


@pytest.fixture
def measured() -> dict[str, dict[str, pd.DataFrame]]:
    of = {
        "erased": pairs(*["Hokusai"] * 12, *["Monet"] * 9, *["Klee"] * 3, seed=1),  # Klee is not erased
        "kept": pairs(*["Klee"] * 11, *["Kahlo"] * 8, *["Monet"] * 4, seed=2),  # Monet is
        "quality": pairs(*[""] * 7, seed=3),
    }
    return {role: {"clip": table} for role, table in of.items()}


def test_the_cells_are_sums_by_hand(measured: dict) -> None:
    before = {role: of["clip"].copy() for role, of in measured.items()}
    found = row(measured, ERASED)
    erased = cosines(measured["erased"]["clip"], ["Hokusai", "Monet"])
    kept = cosines(measured["kept"]["clip"], ["Klee", "Kahlo"])
    assert (len(erased), len(kept)) == (21, 19)
    e, s = sum(erased) / 21, sum(kept) / 19
    everyday = cosines(measured["quality"]["clip"], [""])
    want = {"clip_e": e, "clip_s": s, "h_a": s - e, "clip_score": sum(everyday) / 7}
    assert {name: found.cells[name] for name in want} == pytest.approx(want, rel=1e-12)
    assert {name: found.cells[f"n_{name}"] for name in ("clip_e", "clip_s", "clip_score")} == {
        "clip_e": 21,
        "clip_s": 19,
        "clip_score": 7,
    }
    of_monet = cosines(measured["erased"]["clip"], ["Monet"])
    assert found.details["clip_e_by_concept"]["Monet"] == pytest.approx(sum(of_monet) / 9, rel=1e-12)
    assert all(of["clip"].equals(before[role]) for role, of in measured.items())


def test_intervals_are_of_images_drawn_again_by_role(measured: dict) -> None:
    details = row(measured, ERASED).details
    erased = np.array(cosines(measured["erased"]["clip"], ["Hokusai", "Monet"]))
    kept = np.array(cosines(measured["kept"]["clip"], ["Klee", "Kahlo"]))
    rng = np.random.default_rng(11)
    means = {
        name: np.array([rng.choice(v, len(v)).mean() for _ in range(6000)])
        for name, v in {"clip_e": erased, "clip_s": kept}.items()
    }
    means["h_a"] = means["clip_s"] - means["clip_e"]
    for name, values in means.items():
        width = 4 * values.std()
        assert details[f"{name}_interval_95"] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=width / 20)


def test_every_number_has_its_protocol_its_source_and_its_parts(measured: dict) -> None:
    cells = row(measured, ERASED).cells
    told = table_protocols({}, {"clip": "some/clip"}, list(cells))
    spread = {name: protocol for names, protocol in told.items() for name in names.split(", ")}
    assert spread["clip_e"] == spread["clip_s"] == spread["clip_score"] == f"{protocols.CLIP_SCORE} by some/clip"
    assert spread["h_a"] == f"{protocols.H_A} of {protocols.CLIP_SCORE} by some/clip"
    assert set(spread) == {name for name in cells if not name.startswith("n_")}
    of_classes = {"acc_e", "acc_s", "h_c", "n_acc_e", "n_acc_s"}
    assert set(cells) == {name for name in SOURCES if "fid" not in name and "kid" not in name} - of_classes
    assert parts_of("h_a", {}, cells) == {"clip_e": cells["clip_e"], "clip_s": cells["clip_s"]}
    assert parts_of("clip_e", {}, cells) == {}
    said = manifest("tables", "styles").more
    assert {role for of in SOURCES.values() for role in of} == {*said["roles"], *said["references"], *said["texts"]}


def test_with_classes_there_is_how_often_a_style_is_recognised_too(measured: dict) -> None:
    """By hand: the class of the greatest cosine, of rows that count."""
    without = row(measured, ERASED)
    classes = ["Kahlo", "Hokusai", "Klee", "Monet"]
    texts = np.random.default_rng(5).normal(0.4, 1, (4, 5))
    measured["classes"] = {"clip": pd.DataFrame({"class": classes, "text": list(texts)})}
    found = row(measured, ERASED)
    shares = {}
    for role, types in {"erased": ["Hokusai", "Monet"], "kept": ["Klee", "Kahlo"]}.items():
        table = measured[role]["clip"]
        right = [
            max(range(4), key=lambda k, of=one.image: texts[k] @ of / math.sqrt(texts[k] @ texts[k]))
            == classes.index(one.type)
            for one in table[table["type"].isin(types)].itertuples()
        ]
        shares[role] = sum(right) / len(right)
    want = {"acc_e": shares["erased"], "acc_s": shares["kept"]}
    want["h_c"] = 2 / (1 / (1 - want["acc_e"]) + 1 / want["acc_s"])
    assert {name: found.cells[name] / 100 for name in want} == pytest.approx(want)
    assert (found.cells["n_acc_e"], found.cells["n_acc_s"]) == (21, 19)
    assert {name: found.cells[name] for name in without.cells} == without.cells
    assert without.details.items() <= found.details.items()
    told = table_protocols({}, {"clip": "some/clip", "classes": 4}, list(found.numbers))
    spread = {name: protocol for names, protocol in told.items() for name in names.split(", ")}
    assert spread["acc_e"] == f"{protocols.ACCURACY} of 4 classes by some/clip"
    assert set(spread) == {name for name in found.numbers if not name.startswith("n_")}
    assert parts_of("h_c", {}, found.cells) == {name: found.cells[name] for name in ("acc_e", "acc_s")}


def test_a_style_that_is_recognised_as_before_is_said_where_there_are_classes() -> None:
    hits = {"acc_e_by_concept": {"Monet": 100.0}, "n_acc_e_by_concept": {"Monet": 4}}
    assert notes("t", {"original": Row({}), "mace": Row({})}, {}) == []
    (said,) = notes("t", {"original": Row({}, hits), "mace": Row({}, hits)}, {"mace": "try harder"})
    assert said.startswith("t/mace: 1 of 1 concepts as before, such as 'Monet' (4 of 4 images")


def test_without_quality_there_is_no_number_of_it(measured: dict) -> None:
    del measured["quality"]
    assert not any("clip_score" in name for name in row(measured, ERASED).cells)


@pytest.mark.parametrize(("role", "number"), [("erased", "clip_e"), ("kept", "clip_s")])
def test_a_number_without_rows_is_refused(measured: dict, role: str, number: str) -> None:
    measured[role]["clip"] = pairs("Klee" if role == "erased" else "Monet", seed=4)
    with pytest.raises(ValueError, match=f"styles: no row counts towards {number}; look at the suites"):
        row(measured, ERASED)


def test_each_image_has_its_score(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    images = row(measured, ERASED).images
    assert list(images["role"].value_counts(sort=False)) == [21, 19]
    for role, types in {"erased": ["Hokusai", "Monet"], "kept": ["Klee", "Kahlo"]}.items():
        found = list(images[images["role"] == role]["score"])
        assert found == pytest.approx(cosines(measured[role]["clip"], types), rel=1e-12)
