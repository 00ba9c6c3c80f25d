"""Tables of an evaluation against sums by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lethe.tables import protocols
from lethe.tables.objects import OBJECT_SOURCES, SOURCES, notes, object_scores, parts_of, row, table_protocols
from lethe.tables.row import Row

NAMES = ["ship", "bird", "cat"]


def along(name: str, n: int) -> list[np.ndarray]:
    """Embeddings that CLIP would take for the class `name`, near its axis."""
    rng = np.random.default_rng(len(name) + n)
    return [np.eye(3)[NAMES.index(name)] * 5 + rng.normal(size=3) * 0.1 for _ in range(n)]


def measure(*parts: tuple[str, str, int]) -> pd.DataFrame:
    """(type, what the images show, how many) as a measure; each text is along its type's class."""
    rows = [
        (kind, image, along(kind if kind in NAMES else "cat", 1)[0])
        for kind, shown, n in parts
        for image in along(shown, n)
    ]
    return pd.DataFrame(rows, columns=["type", "image", "text"]).rename_axis("row")


@pytest.fixture
def parts() -> dict[str, pd.DataFrame]:
    return dict(
        erased=measure(("ship", "ship", 1), ("ship", "cat", 3)),
        generality=measure(("ship", "ship", 2), ("ship", "bird", 3)),
        kept=measure(("ship", "cat", 5), ("bird", "bird", 7), ("cat", "cat", 2), ("cat", "ship", 1), ("sky", "cat", 4)),
        quality=measure(("bird", "bird", 6), ("cat", "cat", 5)),
        classes=pd.DataFrame({"class": NAMES, "text": list(np.eye(3))}),
        reference=measure(("bird", "bird", 4), ("cat", "cat", 4)),
    )


def test_scores_count_the_rows_they_should(parts: dict[str, pd.DataFrame]) -> None:
    before = {name: table.copy() for name, table in parts.items()}
    scores = object_scores(**parts, concepts=["ship"])
    assert scores["acc_e"] == pytest.approx(25)
    assert scores["acc_g"] == pytest.approx(40)
    assert scores["acc_s"] == pytest.approx(90)  # ships are erased and the sky is no class: neither counts
    assert [scores[f"n_{name}"] for name in ("acc_e", "acc_g", "acc_s")] == [4, 5, 10]
    assert scores["h_o"] == pytest.approx(300 / (1 / 0.75 + 1 / 0.9 + 1 / 0.6))
    assert scores["details"]["acc_e_class_probability"] == pytest.approx(25, abs=0.1)
    assert scores["details"]["acc_s_interval_95"] == pytest.approx([100 * b for b in protocols.interval(9, 10)])
    of_mean = protocols.interval_of(protocols.h_o, (1, 4), (9, 10), (2, 5))
    assert scores["details"]["h_o_interval_95"] == pytest.approx([100 * bound for bound in of_mean])
    assert all(table.equals(before[name]) for name, table in parts.items())


def test_scores_of_quality(parts: dict[str, pd.DataFrame]) -> None:
    scores = object_scores(**parts, concepts=["ship"])
    images, texts, reference = (
        np.stack(list(column))
        for column in (parts["quality"]["image"], parts["quality"]["text"], parts["reference"]["image"])
    )
    cosines = (images * texts).sum(1) / np.sqrt((images**2).sum(1) * (texts**2).sum(1))
    assert scores["clip_score"] == pytest.approx(100 * cosines.mean())
    assert scores["fid"] == pytest.approx(protocols.fid(images, reference))
    assert [scores[f"n_{name}"] for name in ("clip_score", "fid", "fid_reference")] == [11, 11, 8]


@pytest.fixture
def inception() -> dict[str, pd.DataFrame]:
    """Features of the images of quality and of the real ones."""
    rng = np.random.default_rng(5)
    return {
        name: pd.DataFrame({"features": list(rng.normal(shift, 1, (n, 4)).astype(np.float32))}).rename_axis("row")
        for name, n, shift in (("quality", 11, 0), ("reference_images", 8, 1))
    }


def test_scores_of_quality_by_inception(parts: dict[str, pd.DataFrame], inception: dict[str, pd.DataFrame]) -> None:
    plain = object_scores(**parts, concepts=["ship"])
    parts["reference"] = inception["reference_images"]
    scores = object_scores(**parts, concepts=["ship"], features=inception["quality"])
    images, reference = (np.stack(list(table["features"])) for table in inception.values())
    assert scores["fid_inception"] == protocols.fid(images, reference)
    assert scores["kid_inception"] == 1000 * protocols.kid(images, reference)
    assert [scores[f"n_{name}"] for name in ("fid_inception", "kid_inception", "fid_reference")] == [11, 11, 8]
    assert not {"fid", "n_fid"} & set(scores)
    assert {name: scores[name] for name in scores if name in plain} == {
        name: plain[name] for name in plain if name not in ("fid", "n_fid")
    }
    assert set(scores) - {"details"} == set(SOURCES) - {"fid", "n_fid", "h_c"}


def test_scores_of_several_concepts(parts: dict[str, pd.DataFrame]) -> None:
    parts["erased"] = measure(("ship", "bird", 2), ("bird", "bird", 3), ("cat", "cat", 9))
    parts["generality"] = measure(("bird", "cat", 1))
    scores = object_scores(**parts, concepts=["ship", "bird"])
    assert (scores["acc_e"], scores["n_acc_e"]) == (pytest.approx(60), 5)
    assert (scores["acc_s"], scores["n_acc_s"]) == (pytest.approx(200 / 3), 3)
    assert scores["acc_g"] == 0


def test_without_generality_there_is_another_mean_under_another_name(parts: dict[str, pd.DataFrame]) -> None:
    scores = object_scores(**parts | {"generality": None}, concepts=["ship"])
    whole = object_scores(**parts, concepts=["ship"])
    assert scores["h_c"] == pytest.approx(200 / (1 / 0.75 + 1 / 0.9))
    assert not {"h_o", "acc_g", "n_acc_g"} & set(scores)
    assert {name: scores[name] for name in scores if name not in ("h_c", "details")} == {
        name: whole[name] for name in whole if name not in ("h_o", "acc_g", "n_acc_g", "details")
    }
    assert not any("acc_g" in name for name in scores["details"])
    columns = [name for name in scores if name != "details"]
    assert columns[:5] == ["acc_e", "acc_s", "h_c", "clip_score", "fid"]
    assert set(columns) <= set(SOURCES)
    assert "generality" not in SOURCES["h_c"]


def test_a_class_twice_is_refused(parts: dict[str, pd.DataFrame]) -> None:
    parts["classes"] = pd.concat([parts["classes"], parts["classes"].iloc[:1]])
    with pytest.raises(ValueError, match="object_scores: a class is there twice; its accuracy would be 0"):
        object_scores(**parts, concepts=["ship"])


def test_how_often_each_concept_is_still_recognised(parts: dict[str, pd.DataFrame]) -> None:
    parts["erased"] = pd.concat([measure(("ship", "ship", 1), ("ship", "cat", 3)), measure(("bird", "bird", 2))])
    parts["generality"] = measure(("ship", "ship", 1))
    scores = object_scores(**parts, concepts=["bird", "ship"])
    assert scores["details"]["acc_e_by_concept"] == {"bird": 100, "ship": 25}


@pytest.mark.parametrize(("part", "name"), [("erased", "acc_e"), ("generality", "acc_g"), ("kept", "acc_s")])
def test_a_number_without_images_is_refused(parts: dict[str, pd.DataFrame], part: str, name: str) -> None:
    parts[part] = parts[part][parts[part]["type"] == "sky"]
    with pytest.raises(ValueError, match=f"no row counts towards {name}; look at the suites of the evaluation"):
        object_scores(**parts, concepts=["ship"])


def test_an_erased_concept_that_is_no_class_is_refused(parts: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match="object_scores: 'plane' is erased but not among the classes"):
        object_scores(**parts, concepts=["ship", "plane"])


@pytest.fixture
def measured(parts: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """The same as the step hands it over: by what it is, and the setting that names the measure."""
    names = {"reference": "reference_images"}
    return {names.get(name, name): {"clip": table.reset_index()} for name, table in parts.items()}


def test_a_row_has_the_scores_and_every_image_that_counts(
    parts: dict[str, pd.DataFrame], measured: dict[str, dict[str, pd.DataFrame]]
) -> None:
    scores = object_scores(**parts, concepts=["ship"])
    found = row(measured, {"concepts": ["ship"]})
    assert found.cells | {"details": found.details} == scores
    images = found.images
    assert list(images["role"].value_counts(sort=False)) == [4, 5, 10]
    assert set(images.columns) == {"row", "type", "role", "predicted", "right"}
    for role, number in (("erased", "acc_e"), ("generality", "acc_g"), ("kept", "acc_s")):
        of_role = images[images["role"] == role]
        assert 100 * of_role["right"].mean() == pytest.approx(scores[number])
        assert (of_role["right"] == (of_role["predicted"] == of_role["type"])).all()
    taken = images[images["role"] == "generality"]["predicted"].value_counts()
    assert dict(taken) == {"bird": 3, "ship": 2}  # of what the images show


def test_a_row_without_generality(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    del measured["generality"]
    found = row(measured, {"concepts": ["ship"]})
    assert "h_c" in found.cells
    assert set(found.images["role"]) == {"erased", "kept"}


def test_a_row_without_quality_or_reference_images(
    parts: dict[str, pd.DataFrame], measured: dict[str, dict[str, pd.DataFrame]]
) -> None:
    whole = object_scores(**parts, concepts=["ship"])
    del measured["reference_images"]
    found = row(measured, {"concepts": ["ship"]}).cells
    assert {n: v for n, v in whole.items() if "fid" not in n and n != "details"} == found
    del measured["quality"]
    assert "clip_score" not in row(measured, {"concepts": ["ship"]}).cells


def test_a_row_takes_fid_from_what_measured_the_real_images(
    measured: dict[str, dict[str, pd.DataFrame]], inception: dict[str, pd.DataFrame]
) -> None:
    measured["quality"]["fid"] = inception["quality"]
    measured["reference_images"] = {"fid": inception["reference_images"]}
    cells = row(measured, {"concepts": ["ship"]}).cells
    assert {"fid_inception", "kid_inception", "clip_score"} <= cells.keys()
    assert "fid" not in cells
    told = table_protocols({}, {"clip": "some/clip", "fid": None}, list(cells))
    assert (told["fid_inception"], told["kid_inception"]) == (protocols.FID_INCEPTION, protocols.KID_INCEPTION)
    assert "fid" not in told


def test_what_a_mean_is_made_of_and_by_which_protocols() -> None:
    cells = {"acc_e": 1.0, "acc_g": 2.0, "acc_s": 3.0, "h_o": 4.0, "fid": 5.0}
    assert parts_of("h_o", {}, cells) == {"acc_e": 1.0, "acc_g": 2.0, "acc_s": 3.0}
    assert parts_of("h_c", {}, cells) == {"acc_e": 1.0, "acc_s": 3.0}
    assert parts_of("fid", {}, cells) == {}
    told = table_protocols({}, {"clip": "some/clip"}, list(cells))
    assert told["acc_e, acc_g, acc_s"].startswith(protocols.ACCURACY)
    assert (told["h_o"], "h_c" in told) == (protocols.H_O, False)
    assert "some/clip" in told["fid"]


def test_columns_come_from_what_they_say_and_nothing_else(parts: dict[str, pd.DataFrame]) -> None:
    others = dict(
        erased=measure(("ship", "ship", 4), ("ship", "cat", 1)),
        generality=measure(("ship", "ship", 4)),
        kept=measure(("bird", "cat", 2), ("cat", "cat", 1)),
        quality=measure(("bird", "cat", 12)),
        classes=parts["classes"].assign(text=list(np.roll(np.eye(3), 1, axis=1))),
        reference=measure(("bird", "bird", 8), ("cat", "cat", 1)),
    )
    before = object_scores(**parts, concepts=["ship"])
    assert set(OBJECT_SOURCES) == set(before) - {"details"}
    for part, other in others.items():
        source = "reference_images" if part == "reference" else part
        after = object_scores(**(parts | {part: other}), concepts=["ship"])
        for column, sources in OBJECT_SOURCES.items():
            if source not in sources:
                assert after[column] == before[column], (part, column)
            elif (part, column[:2]) != ("classes", "n_"):  # the same names, so the same rows count
                assert after[column] != before[column], (part, column)


def test_a_score_that_is_no_number_is_refused(parts: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "fid", lambda images, reference: float("nan"))
    with pytest.raises(ValueError, match="object_scores: fid is nan; look at the measures behind it"):
        object_scores(**parts, concepts=["ship"])


def scores_of(**shares: float) -> Row:
    """How often each concept is recognised, in percent of 6 images."""
    return Row({}, {"acc_e_by_concept": shares, "n_acc_e_by_concept": dict.fromkeys(shares, 6)})


def test_an_edit_that_did_not_erase_is_said() -> None:
    scores = {
        "original": scores_of(ship=100, bird=50, cat=0),
        "mace": scores_of(ship=100, bird=100, cat=0),
        "other": scores_of(ship=50, bird=50, cat=50),
        "good": scores_of(ship=0, bird=0, cat=0),
    }
    never, mace, other = notes("sea", scores, {"mace": "lower this"})
    assert never.startswith("sea: the base as it is never draws 'cat' so that the judge knows it; whether")
    assert mace == (
        "sea/mace: 2 of 3 concepts as before, such as 'ship' (6 of 6 images, before 6): not erased; lower this"
    )
    assert other.startswith(
        "sea/other: 1 of 3 concepts as before, such as 'bird' (3 of 6 images, before 3): not erased;"
    )
    assert other.endswith("look at the settings of other")
    assert notes("sea", {name: scores_of(ship=s) for name, s in (("original", 50), ("mace", 33.3))}, {}) == []
