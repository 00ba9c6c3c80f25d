"""The step of tables: measures are joined by what stands in them, whatever their order and place."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lethe.measures.stored import write_measure
from lethe.plugins import manifest
from lethe.steps.table import Measured, by_concept, run
from lethe.tables.protocols import interval

CLASSES = ["ship", "bird", "cat"]
SHARDS = {"a": ["ship", "cat"], "b": ["bird", "cat"]}  # types of the rows of each shard


def along(kind: str) -> np.ndarray:
    return np.eye(3)[CLASSES.index(kind)]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    """Measures of two tasks on one base; the edit of the first takes every ship for a cat."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, list[Path]] = {"measures": [], "texts": [], "references": [], "bases": []}
    for edit in ("original", "one/mace", "two/mace"):
        for shard, types in SHARDS.items():
            rows = pd.DataFrame({"type": types, "prompt": [f"a {kind}" for kind in types], "evaluation_seed": 1})
            shown = ["cat" if edit == "one/mace" and kind == "ship" else kind for kind in types]
            columns = {"image": np.stack([along(kind) for kind in shown]), "text": np.stack([along(k) for k in types])}
            about = {"base": "sd", "edit": edit, "suite": "s", "shard": shard, "measure": "judge"}
            path = Path("results/m", edit, f"{shard}.parquet")
            write_measure(path, rows.rename_axis("row"), columns, about)
            found["measures"].append(path)
    classes = Path("results/classes.parquet")
    about = {"evaluation": "e", "texts": "classes", "measure": "judge"}
    write_measure(classes, pd.DataFrame({"class": CLASSES}), {"text": np.eye(3)}, about)
    base = Path("results/base.json")
    base.write_text("{}")
    return found | {"texts": [classes], "bases": [base]}


def told(task: str, concept: str, shards: list[str]) -> tuple[str, dict]:
    roles = dict(erased="s", kept="s", generality=None, quality=None, fid=None)
    return task, dict(
        base="sd",
        concepts=[concept],
        edits=[("original", "original"), ("mace", f"{task}/mace")],
        evaluation={"kind": "objects", "clip": "judge", **roles},
        name="e",
        shards={"s": shards},
        remedies={"mace": "try harder"},
        references={},
    )


def job_of(files: dict[str, list[Path]], *tasks: tuple[str, dict]) -> SimpleNamespace:
    said: list[tuple[int, str]] = []
    settings = SimpleNamespace(
        kind="objects", tasks=list(tasks), measures={"judge": {"measure": {"model": "some/clip"}}}, protocols={}
    )
    out = {name: Path(f"results/t{end}") for name, end in ENDS.items()}
    job = SimpleNamespace(settings=settings, reads=files, out=out, notes=said, recorded={})
    job.note = lambda count, sentence: said.append((count, sentence))
    job.record = lambda **more: more
    job.write_json = lambda name, content: job.recorded.update({name: content})
    return job


ENDS = {
    "table": ".csv",
    "concepts": "_by_concept.csv",
    "images": ".images.csv",
    "numbers": ".numbers.csv",
    "record": ".json",
}
BOTH = (told("one", "ship", ["a", "b"]), told("two", "bird", ["b"]))


def test_a_table_spans_tasks_that_share_the_base_as_it_is(files: dict[str, list[Path]]) -> None:
    job = job_of(files, *BOTH)
    run(job)
    table = pd.read_csv("results/t.csv").set_index("edit")
    assert list(table.index) == ["one/original", "one/mace", "two/original", "two/mace"]
    assert list(table["acc_e"]) == [100, 0, 100, 100]
    assert list(table["n_acc_e"]) == [1, 1, 1, 1]
    assert list(table["n_acc_s"]) == [3, 3, 1, 1]  # the second task sees its own shard of the base alone
    assert [sentence for _, sentence in job.notes] == [
        "two/mace: 1 of 1 concepts as before, such as 'bird' (1 of 1 images, before 1): not erased; try harder"
    ]
    images = pd.read_csv("results/t.images.csv")
    assert len(images) == 4 + 4 + 2 + 2
    first = images[(images["task"] == "one") & (images["method"] == "mace") & (images["role"] == "erased")].iloc[0]
    assert (first["type"], first["predicted"], bool(first["right"])) == ("ship", "cat", False)
    assert first["picture"] == "results/sd/samples/one/mace/s/a.zip/000000.png"
    assert job.recorded["record"]["parts"]["one/mace"]["h_c"] == {"acc_e": 0.0, "acc_s": 100.0}


def test_every_number_has_its_n_its_interval_and_its_protocol(files: dict[str, list[Path]]) -> None:
    job = job_of(files, *BOTH)
    run(job)
    numbers = pd.read_csv("results/t.numbers.csv")
    assert numbers[["value", "n", "protocol"]].notna().all(axis=None)
    found = numbers[(numbers["task"] == "one") & (numbers["method"] == "mace")].set_index("number")
    assert list(found.index[:3]) == ["acc_e", "acc_s", "h_c"]
    assert set(found.index[3:]) == {f"{name}_class_probability" for name in found.index[:3]}
    assert dict(found["n"]) == dict.fromkeys(("acc_e", "acc_e_class_probability"), 1) | dict.fromkeys(
        ("acc_s", "acc_s_class_probability"), 3
    ) | dict.fromkeys(("h_c", "h_c_class_probability"), 4)
    assert found.at["acc_s", "protocol"] == "clip-top1@1 of 3 classes by some/clip"
    assert found.at["h_c_class_probability", "protocol"] == "h_c@1 of clip-softmax@1 of 3 classes by some/clip"
    single = ["acc_e_class_probability", "h_c_class_probability"]  # of one image, whose mean has no interval
    assert found.loc[single, ["low_95", "high_95"]].isna().all(axis=None)
    found = found.drop(single)
    assert (found["low_95"] <= found["value"]).all()
    assert (found["value"] <= found["high_95"]).drop("h_c").all()  # whose posterior holds no 100
    assert tuple(found.loc["acc_s", ["low_95", "high_95"]]) == tuple(round(100 * b, 4) for b in interval(3, 3))
    record, table = job.recorded["record"], pd.read_csv("results/t.csv").set_index("edit")
    assert set(record["protocols"]) == {*found.index, *single}
    of_table = numbers[numbers["number"].isin(table.columns)]
    for row in of_table.itertuples():
        assert table.at[f"{row.task}/{row.method}", row.number] == pytest.approx(row.value, abs=0.005)


def test_a_table_can_end_with_the_mean_over_its_tasks(files: dict[str, list[Path]]) -> None:
    """Each number is the mean of the tasks', each n their sum; the rows before it stay as they are."""
    run(job_of(files, *BOTH))
    before = {end: pd.read_csv(f"results/t{end}") for end in (".csv", ".numbers.csv")}
    job = job_of(files, *BOTH)
    job.settings.average = True
    run(job)
    table = pd.read_csv("results/t.csv")
    pd.testing.assert_frame_equal(table.head(4), before[".csv"])
    table = table.set_index("edit")
    assert list(table.index[4:]) == ["average/original", "average/mace"]
    assert tuple(table.loc["average/mace", ["acc_e", "acc_s"]]) == (50, (100 + 100) / 2)
    assert table.at["average/mace", "h_c"] == pytest.approx((100 + 0) / 2)  # the mean of the means, as in the paper
    assert tuple(table.loc["average/mace", ["n_acc_e", "n_acc_s"]]) == (2, 4)
    numbers = pd.read_csv("results/t.numbers.csv")
    pd.testing.assert_frame_equal(numbers.head(len(before[".numbers.csv"])), before[".numbers.csv"])
    means = numbers[numbers["task"] == "average"].set_index(["method", "number"])
    assert set(means.index) == {(m, name) for m in ("original", "mace") for name in numbers["number"]}
    assert means[["low_95", "high_95"]].isna().all(axis=None)
    line = means.loc[("mace", "acc_e_class_probability")]
    ours = numbers[(numbers["method"] == "mace") & (numbers["number"] == "acc_e_class_probability")].head(2)
    assert line["value"] == pytest.approx(ours["value"].mean(), abs=1e-4)
    assert (line["n"], line["protocol"]) == (2, "clip-softmax@1 of 3 classes by some/clip")
    sources = job.recorded["cells"]["rows"]
    both = [*sources["one/mace"]["erased"], *sources["two/mace"]["erased"]]
    assert sorted(sources["average/mace"]["erased"]) == sorted(both)


def test_two_protocols_in_one_column_are_refused(files: dict[str, list[Path]]) -> None:
    """Two tasks whose evaluations have another number of classes, or another judge."""
    classes = Path("results/more.parquet")
    about = {"evaluation": "f", "texts": "classes", "measure": "judge"}
    write_measure(classes, pd.DataFrame({"class": [*CLASSES, "dog"]}), {"text": np.ones((4, 3))}, about)
    files["texts"].append(classes)
    task, other = told("two", "bird", ["b"])
    with pytest.raises(ValueError, match="the column acc_e of one and two: clip-top1@1 of 3 classes by some/clip and "):
        run(job_of(files, BOTH[0], (task, other | {"name": "f"})))
    assert not list(Path("results").glob("t.*"))


def test_neither_order_nor_place_of_the_files_matters(files: dict[str, list[Path]]) -> None:
    run(job_of(files, *BOTH))
    before = {end: Path(f"results/t{end}").read_bytes() for end in list(ENDS.values())[:4]}
    random.Random(1).shuffle(files["measures"])
    files["measures"] = [path.rename(path.with_name(f"{k}.x")) for k, path in enumerate(files["measures"])]
    run(job_of(files, *BOTH))
    assert before == {end: Path(f"results/t{end}").read_bytes() for end in before}


def test_measures_of_another_shard_or_edit_are_no_stand_in(files: dict[str, list[Path]]) -> None:
    wrong = pd.read_parquet(files["measures"][2]).assign(edit="two/mace")
    wrong.to_parquet(files["measures"][2])
    with pytest.raises(ValueError, match="measures of one/mace, s by judge: shard a is not as planned"):
        run(job_of(files, *BOTH))


def test_texts_and_sources_are_found_by_what_they_say(files: dict[str, list[Path]]) -> None:
    found = Measured(job_of(files, *BOTH), manifest("tables", "objects").more)
    assert found.every_row() == {"classes": ["results/classes.parquet"]}
    assert found.sources(BOTH[0][1], "one/mace")["erased"] == [f"results/m/one/mace/{s}.parquet" for s in SHARDS]
    pd.read_parquet("results/classes.parquet").assign(evaluation="other").to_parquet("results/classes.parquet")
    with pytest.raises(ValueError, match="no measure is of .*'evaluation': 'e'.*; run snakemake again"):
        Measured(job_of(files, *BOTH), manifest("tables", "objects").more).of(BOTH[0][1], "original")


def test_a_measure_that_is_not_named_is_not_asked_for(files: dict[str, list[Path]]) -> None:
    found = Measured(job_of(files, *BOTH), manifest("tables", "objects").more)
    assert found.named == {"clip": "judge"}


def test_quality_and_real_images_are_those_of_the_measure_that_is_named(files: dict[str, list[Path]]) -> None:
    task, one = told("one", "ship", ["a", "b"])
    one["evaluation"] |= {"quality": "s", "fid": "inception"}
    one["references"] = {"reference_images": ["fid", "real-00000000"]}
    for path in list(files["measures"]):
        about = pd.read_parquet(path, columns=["base", "edit", "suite", "shard"]).iloc[0].to_dict()
        rows = pd.read_parquet(path, columns=["type", "prompt", "evaluation_seed"])
        write_measure(path.with_suffix(".f"), rows, {"features": np.ones((2, 3))}, about | {"measure": "inception"})
        files["measures"].append(path.with_suffix(".f"))
    real = Path("results/real.parquet")
    about = {"reference": "real-00000000", "measure": "inception"}
    write_measure(real, pd.DataFrame({"name": ["x.png"]}).rename_axis("row"), {"features": np.zeros((1, 3))}, about)
    files["references"].append(real)
    found = Measured(job_of(files, (task, one)), manifest("tables", "objects").more).of(one, "original")
    assert {role: sorted(by) for role, by in found.items()} == {
        "erased": ["clip"],
        "kept": ["clip"],
        "quality": ["clip", "fid"],
        "classes": ["clip"],
        "reference_images": ["fid"],
    }
    assert (len(found["quality"]["fid"]), "image" in found["quality"]["fid"]) == (4, False)
    assert list(found["quality"]["clip"]["shard"]) == list(found["quality"]["fid"]["shard"])


ROLES = {"erased": {"counts": "erased", "towards": "acc_e"}, "kept": {"counts": "kept", "towards": "acc_s"}}
PROTOCOLS = {"acc_e": {"t": "protocol of e"}, "acc_s": {"t": "protocol of s"}}


def images_taken_for(taken: list[str | None], **more: object) -> pd.DataFrame:
    """Images of prompts for a ship, as the step of tables has them; None where nothing was recognised."""
    about = {"task": "t", "method": "m", "role": "erased", "type": "ship", "prompt": "a ship", "score": None}
    images = pd.DataFrame({"predicted": taken, "evaluation_seed": range(1, len(taken) + 1)}).assign(**about | more)
    right = [None if name is None else name == "ship" for name in taken]
    return images.assign(right=pd.Series(right, dtype=object))


def one_concept(images: pd.DataFrame) -> dict:
    (row,) = by_concept(images, ROLES, PROTOCOLS).to_dict("records")
    return row


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The interval's ends in percent, from its formula."""
    z = 1.959963984540054
    middle, half = (hits + z * z / 2) / (n + z * z), z / (n + z * z) * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return round(100 * (middle - half), 2), round(100 * (middle + half), 2)


def test_concepts_are_counted_with_their_interval_protocol_and_failing_seeds() -> None:
    row = one_concept(images_taken_for(["ship", "cat", "cat", "dog", "ship"]))
    assert (row["number"], row["protocol"], row["concept"]) == ("acc_e", "protocol of e", "ship")
    assert (row["n"], row["value"]) == (5, 40)
    assert (row["low_95"], row["high_95"]) == wilson(2, 5)
    assert (row["failed"], row["failing_seeds"]) == (2, "1 5")  # which still show it
    assert (row["taken_for"], row["n_taken_for"]) == ("cat", 2)
    row = one_concept(images_taken_for(["ship", "cat", "cat", "dog", "ship"], role="kept"))
    assert (row["number"], row["failed"], row["failing_seeds"]) == ("acc_s", 3, "2 3 4")
    row = one_concept(images_taken_for(["ship", "cat", "ship"], method="original"))
    assert (row["value"], row["failed"], row["failing_seeds"]) == (66.67, 1, "2")  # which does not draw it
    row = one_concept(images_taken_for(["ship", "ship"]))
    assert pd.isna([row["taken_for"], row["n_taken_for"]]).all()


def test_seeds_of_several_prompts_stand_behind_theirs() -> None:
    row = one_concept(images_taken_for(["ship", "cat", "ship"], prompt=["a ship", "a boat", "a boat"]))
    assert row["failing_seeds"] == "a ship: 1; a boat: 3"


def test_images_in_which_nothing_is_recognised_are_out_of_n() -> None:
    row = one_concept(images_taken_for(["ship", None, "cat", None]))
    assert (row["n"], row["value"], row["failed"]) == (2, 50, 1)
    row = one_concept(images_taken_for([None, None]))
    assert (row["n"], row["failed"]) == (0, 0)
    assert pd.isna([row["value"], row["low_95"], row["high_95"]]).all()


def test_scores_have_a_mean_and_no_image_that_fails() -> None:
    scores = np.random.default_rng(3).normal(30, 2, 40)
    row = one_concept(images_taken_for([None] * 40, score=scores))
    assert (row["n"], row["value"]) == (40, round(sum(scores) / 40, 2))
    assert row["low_95"] < row["value"] < row["high_95"]
    assert row["high_95"] - row["low_95"] == pytest.approx(2 * 1.96 * scores.std() / 40**0.5, rel=0.15)
    assert pd.isna([row["failed"], row["failing_seeds"]]).all()
