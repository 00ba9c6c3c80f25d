"""Tables of an evaluation against sums by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lethe.tables import protocols
from lethe.tables.objects import SOURCES, notes, object_scores, parts_of, row, table_protocols
from lethe.tables.quality import scores as quality_scores
from lethe.tables.row import Row

NAMES = ["ship", "bird", "cat"]
EXTRA = {"details", "beside"}


def scored(
    *, quality: pd.DataFrame | None, reference: pd.DataFrame | None, features: pd.DataFrame | None = None, **parts: Any
) -> dict[str, Any]:
    """`object_scores` with the numbers of quality."""
    return object_scores(**parts, of_quality=quality_scores(quality, reference, features))


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
    scores = scored(**parts, concepts=["ship"])
    assert scores["acc_e"] == pytest.approx(25)
    assert scores["acc_g"] == pytest.approx(40)
    assert scores["acc_s"] == pytest.approx(90)  # ships are erased and the sky is no class: neither counts
    assert [scores[f"n_{name}"] for name in ("acc_e", "acc_g", "acc_s")] == [4, 5, 10]
    assert scores["h_o"] == pytest.approx(300 / (1 / 0.75 + 1 / 0.9 + 1 / 0.6))
    assert scores["beside"]["acc_e_class_probability"] == pytest.approx(25, abs=0.1)
    assert scores["beside"]["n_acc_e_class_probability"] == 4
    assert scores["details"]["acc_s_interval_95"] == pytest.approx([100 * b for b in protocols.interval(9, 10)])
    of_mean = protocols.interval_of(protocols.h_o, (1, 4), (9, 10), (2, 5))
    assert scores["details"]["h_o_interval_95"] == pytest.approx([100 * bound for bound in of_mean])
    assert all(table.equals(before[name]) for name, table in parts.items())


def test_scores_of_quality(parts: dict[str, pd.DataFrame]) -> None:
    scores = scored(**parts, concepts=["ship"])
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
    plain = scored(**parts, concepts=["ship"])
    parts["reference"] = inception["reference_images"]
    scores = scored(**parts, concepts=["ship"], features=inception["quality"])
    images, reference = (np.stack(list(table["features"])) for table in inception.values())
    assert scores["fid_inception"] == protocols.fid(images, reference)
    assert scores["kid_inception"] == 1000 * protocols.kid(images, reference)
    assert [scores[f"n_{name}"] for name in ("fid_inception", "kid_inception", "fid_reference")] == [11, 11, 8]
    assert not {"fid", "n_fid"} & set(scores)
    assert {name: scores[name] for name in scores if name in plain} == {
        name: plain[name] for name in plain if name not in ("fid", "n_fid")
    }
    assert set(scores) - EXTRA == set(SOURCES) - {"fid", "n_fid", "h_c"}


def test_scores_of_several_concepts(parts: dict[str, pd.DataFrame]) -> None:
    parts["erased"] = measure(("ship", "bird", 2), ("bird", "bird", 3), ("cat", "cat", 9))
    parts["generality"] = measure(("bird", "cat", 1))
    scores = scored(**parts, concepts=["ship", "bird"])
    assert (scores["acc_e"], scores["n_acc_e"]) == (pytest.approx(60), 5)
    assert (scores["acc_s"], scores["n_acc_s"]) == (pytest.approx(200 / 3), 3)
    assert scores["acc_g"] == 0


def test_without_generality_there_is_another_mean_under_another_name(parts: dict[str, pd.DataFrame]) -> None:
    scores = scored(**parts | {"generality": None}, concepts=["ship"])
    whole = scored(**parts, concepts=["ship"])
    assert scores["h_c"] == pytest.approx(200 / (1 / 0.75 + 1 / 0.9))
    assert not {"h_o", "acc_g", "n_acc_g"} & set(scores)
    assert {name: scores[name] for name in scores if name not in ("h_c", *EXTRA)} == {
        name: whole[name] for name in whole if name not in ("h_o", "acc_g", "n_acc_g", *EXTRA)
    }
    assert not any("acc_g" in name for name in scores["details"])
    columns = [name for name in scores if name not in EXTRA]
    assert columns[:5] == ["acc_e", "acc_s", "h_c", "clip_score", "fid"]
    assert set(columns) <= set(SOURCES)
    assert "generality" not in SOURCES["h_c"]


def test_a_class_twice_is_refused(parts: dict[str, pd.DataFrame]) -> None:
    parts["classes"] = pd.concat([parts["classes"], parts["classes"].iloc[:1]])
    with pytest.raises(ValueError, match="object_scores: a class is there twice; its accuracy would be 0"):
        scored(**parts, concepts=["ship"])


def test_how_often_each_concept_is_still_recognised(parts: dict[str, pd.DataFrame]) -> None:
    parts["erased"] = pd.concat([measure(("ship", "ship", 1), ("ship", "cat", 3)), measure(("bird", "bird", 2))])
    parts["generality"] = measure(("ship", "ship", 1))
    scores = scored(**parts, concepts=["bird", "ship"])
    assert scores["details"]["acc_e_by_concept"] == {"bird": 100, "ship": 25}


@pytest.mark.parametrize(("part", "name"), [("erased", "acc_e"), ("generality", "acc_g"), ("kept", "acc_s")])
def test_a_number_without_images_is_refused(parts: dict[str, pd.DataFrame], part: str, name: str) -> None:
    parts[part] = parts[part][parts[part]["type"] == "sky"]
    with pytest.raises(ValueError, match=f"no row counts towards {name}; look at the suites of the evaluation"):
        scored(**parts, concepts=["ship"])


def test_an_erased_concept_that_is_no_class_is_refused(parts: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match="object_scores: 'plane' is erased but not among the classes"):
        scored(**parts, concepts=["ship", "plane"])


@pytest.fixture
def measured(parts: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """The same as the step hands it over: by what it is, and the setting that names the measure."""
    parts = parts | {"quality": parts["quality"].assign(prompt=[f"the {kind}" for kind in parts["quality"]["type"]])}
    names = {"reference": "reference_images"}
    return {names.get(name, name): {"clip": table.reset_index()} for name, table in parts.items()}


def test_a_row_has_the_scores_and_every_image_that_counts(
    parts: dict[str, pd.DataFrame], measured: dict[str, dict[str, pd.DataFrame]]
) -> None:
    scores = scored(**parts, concepts=["ship"])
    found = row(measured, {"concepts": ["ship"]})
    assert found.cells == {name: value for name, value in scores.items() if name not in EXTRA}
    assert scores["beside"].items() <= found.beside.items()
    assert scores["details"].items() <= found.details.items()
    images = found.images
    assert list(images["role"].value_counts(sort=False)) == [4, 5, 10]
    assert set(images.columns) == {"row", "type", "role", "predicted", "right", "probability", "type_probability"}
    for role, number in (("erased", "acc_e"), ("generality", "acc_g"), ("kept", "acc_s")):
        of_role = images[images["role"] == role]
        assert 100 * of_role["right"].mean() == pytest.approx(scores[number])
        assert (of_role["right"] == (of_role["predicted"] == of_role["type"])).all()
        whole = scores["beside"][f"{number}_class_probability"]
        assert 100 * of_role["type_probability"].mean() == pytest.approx(whole)
        same = of_role["right"].astype(bool)
        assert (of_role["probability"] == of_role["type_probability"])[same].all()
        assert (of_role["probability"] > of_role["type_probability"])[~same].all()
    taken = images[images["role"] == "generality"]["predicted"].value_counts()
    assert dict(taken) == {"bird": 3, "ship": 2}  # of what the images show


def test_prompts_that_name_what_was_erased_have_no_part_in_one_clip_score(
    measured: dict[str, dict[str, pd.DataFrame]],
) -> None:
    table = measured["quality"]["clip"]
    table.loc[0, "prompt"] = "a Ship's birdhouse"  # names the ship, and no bird
    cosines = [
        100 * i @ t / np.linalg.norm(i) / np.linalg.norm(t) for i, t in zip(table["image"], table["text"], strict=True)
    ]
    for concepts, left in ((["ship"], cosines[1:]), (["ship", "bird"], cosines[6:])):
        found = row(measured, {"concepts": concepts})
        assert found.beside["clip_score_unnamed"] == pytest.approx(np.mean(left))
        assert found.beside["n_clip_score_unnamed"] == len(left)
        low, high = found.details["clip_score_unnamed_interval_95"]
        assert low < np.mean(left) < high
        assert found.cells["clip_score"] == pytest.approx(np.mean(cosines))
    table["prompt"] = "a ship"
    assert "clip_score_unnamed" not in row(measured, {"concepts": ["ship"]}).numbers


def test_a_row_without_generality(measured: dict[str, dict[str, pd.DataFrame]]) -> None:
    del measured["generality"]
    found = row(measured, {"concepts": ["ship"]})
    assert "h_c" in found.cells
    assert set(found.images["role"]) == {"erased", "kept"}


def test_a_row_without_quality_or_reference_images(
    parts: dict[str, pd.DataFrame], measured: dict[str, dict[str, pd.DataFrame]]
) -> None:
    whole = scored(**parts, concepts=["ship"])
    del measured["reference_images"]
    found = row(measured, {"concepts": ["ship"]}).cells
    assert {n: v for n, v in whole.items() if "fid" not in n and n not in EXTRA} == found
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
    told = table_protocols({}, {"clip": "some/clip", "fid": None, "reference_images": "photographs"}, list(cells))
    assert told["fid_inception"] == f"{protocols.FID_INCEPTION} to photographs"
    assert told["kid_inception"] == f"{protocols.KID_INCEPTION} to photographs"
    assert "fid" not in told


def test_what_a_mean_is_made_of_and_by_which_protocols() -> None:
    cells = {"acc_e": 1.0, "acc_g": 2.0, "acc_s": 3.0, "h_o": 4.0, "fid": 5.0}
    assert parts_of("h_o", {}, cells) == {"acc_e": 1.0, "acc_g": 2.0, "acc_s": 3.0}
    assert parts_of("h_c", {}, cells) == {"acc_e": 1.0, "acc_s": 3.0}
    assert parts_of("fid", {}, cells) == {}
    about = {"clip": "some/clip", "classes": 3, "reference_images": "photographs"}
    beside = {"acc_s_class_probability": 6.0, "acc_e_class_probability": 7.0, "h_c_class_probability": 8.0}
    assert parts_of("h_c_class_probability", {}, cells | beside) == {
        "acc_e_class_probability": 7.0,
        "acc_s_class_probability": 6.0,
    }
    told = table_protocols({}, about, [*cells, *beside])
    assert told["acc_e"] == told["acc_g"] == "clip-top1@1 of 3 classes by some/clip"
    assert (told["h_o"], "h_c" in told) == ("h_o@1 of clip-top1@1 of 3 classes by some/clip", False)
    assert told["h_c_class_probability"] == "h_c@1 of clip-softmax@1 of 3 classes by some/clip"
    assert told["fid"] == "clip-frechet@1 by some/clip to photographs"
    assert told.keys() == {*cells, *beside}


def test_numbers_by_probability_have_an_interval_of_images_drawn_again(parts: dict[str, pd.DataFrame]) -> None:
    """Against a loop over images and draws, with a generator of its own."""
    parts["kept"] = pd.concat([parts["kept"], measure(("bird", "cat", 9))])
    scores = scored(**parts, concepts=["ship"])
    counted = {"acc_e": parts["erased"], "acc_g": parts["generality"]}
    counted["acc_s"] = parts["kept"][parts["kept"]["type"].isin(["bird", "cat"])]
    each = {}
    for name, rows in counted.items():
        each[name] = []
        for kind, image in zip(rows["type"], rows["image"], strict=True):
            logits = [100 * image[k] / np.sqrt((image**2).sum()) for k in range(3)]
            each[name].append(np.exp(logits[NAMES.index(kind)]) / np.exp(logits).sum())
        assert scores["beside"][f"{name}_class_probability"] == pytest.approx(100 * np.mean(each[name]))
    share = {name: np.mean(values) for name, values in each.items()}
    whole = 3 / (1 / (1 - share["acc_e"]) + 1 / share["acc_s"] + 1 / (1 - share["acc_g"]))
    assert scores["beside"]["h_o_class_probability"] == pytest.approx(100 * whole)
    rng, drawn, means = np.random.default_rng(99), [], []
    for _ in range(4000):
        e, g, s = (np.mean(rng.choice(each[name], len(each[name]))) for name in ("acc_e", "acc_g", "acc_s"))
        drawn.append(0 if max(e, g) >= 1 or s <= 0 else 300 / (1 / (1 - e) + 1 / s + 1 / (1 - g)))
        means.append(100 * s)
    for name, values in {"h_o": drawn, "acc_s": means}.items():
        found = scores["details"][f"{name}_class_probability_interval_95"]
        assert found == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=4)
        assert found[1] - found[0] > 10


def test_columns_come_from_what_they_say_and_nothing_else(parts: dict[str, pd.DataFrame]) -> None:
    others = dict(
        erased=measure(("ship", "ship", 4), ("ship", "cat", 1)),
        generality=measure(("ship", "ship", 4)),
        kept=measure(("bird", "cat", 2), ("cat", "cat", 1)),
        quality=measure(("bird", "cat", 12)),
        classes=parts["classes"].assign(text=list(np.roll(np.eye(3), 1, axis=1))),
        reference=measure(("bird", "bird", 8), ("cat", "cat", 1)),
    )
    before = scored(**parts, concepts=["ship"])
    columns = {name: sources for name, sources in SOURCES.items() if name != "h_c" and "inception" not in name}
    assert set(columns) == set(before) - EXTRA
    for part, other in others.items():
        source = "reference_images" if part == "reference" else part
        after = scored(**(parts | {part: other}), concepts=["ship"])
        for column, sources in columns.items():
            if source not in sources:
                assert after[column] == before[column], (part, column)
            elif (part, column[:2]) != ("classes", "n_"):  # the same names, so the same rows count
                assert after[column] != before[column], (part, column)


def test_a_score_that_is_no_number_is_refused(parts: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "fid", lambda images, reference: float("nan"))
    with pytest.raises(ValueError, match="object_scores: fid is nan; look at the measures behind it"):
        scored(**parts, concepts=["ship"])


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
