"""Published numbers: they follow from each other as told, and stand beside ours only by one protocol."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lethe.tables import protocols
from lethe.tables.known import known, name_of
from lethe.tables.published import COLUMNS, beside, cases_of, read_published, read_values
from running import ROOT

SET = ROOT / "resources" / "published" / "mace-2403.06135.yaml"
TABLES = list(yaml.safe_load(SET.read_text())["tables"])


def values(table: str) -> pd.DataFrame:
    """A published table in percent: a row for each method and case, a column for each number."""
    published = read_published(SET, table)
    found = read_values(published.file, published.said)
    return found.pivot(index=["method", "case"], columns="number", values="value")


# Known answers

HARMONIC = {
    "objects": ("h_o", ("acc_e", "acc_s", "acc_g")),
    "celebrities_100": ("h_c", ("acc_e", "acc_s")),
    "ablation": ("h_c", ("acc_e", "acc_s")),
}
# What does not follow from the accuracies printed beside it, even if each of them is anything that rounds to it; the
# value that does.
ODD = {
    ("objects", "AC", "airplane"): (6.11, 7.03),
    ("celebrities_100", "ESD-u", ""): (45.98, 55.55),
    ("celebrities_100", "SLD-M", ""): (22.37, 22.26),
    ("celebrities_100", "AC", ""): (19.77, 19.42),
}


@pytest.mark.parametrize("table", HARMONIC)
def test_every_harmonic_mean_follows_from_its_accuracies_but_those_that_are_told(table: str) -> None:
    name, parts = HARMONIC[table]
    mean = {"h_o": protocols.h_o, "h_c": protocols.h_c}[name]
    looked_at = 0
    for (method, case), row in values(table).dropna().iterrows():
        if case == "average_of_10":  # the mean of ten means, six of which are not printed
            continue
        half = 0.005 / 100  # of the last printed digit
        shares = [row[part] / 100 for part in parts]
        signs = [1 if part == "acc_s" else -1 for part in parts]  # a mean grows with acc_s and falls with the others
        low, high = (
            100 * mean(*(share + way * sign * half for share, sign in zip(shares, signs, strict=True)))
            for way in (-1, 1)
        )
        follows = low - 0.01 <= row[name] <= high + 0.01  # its last digit may be cut off rather than rounded
        assert follows == ((table, method, case) not in ODD), (method, case, row[name], low, high)
        if not follows:
            assert (round(row[name], 2), round(100 * mean(*shares), 2)) == ODD[table, method, case]
        looked_at += 1
    assert looked_at == {"objects": 28, "celebrities_100": 7, "ablation": 4}[table]


def test_the_means_that_do_not_follow_are_told_where_the_numbers_are() -> None:
    text = (SET.parent / "README.md").read_text()
    for (_, method, case), (printed, follows) in ODD.items():
        told = " ".join(word for word in (method, case) if word)
        assert f"| {told} | {printed:.2f} | {follows:.2f} |" in text


def test_an_average_of_means_is_at_most_the_mean_of_averages() -> None:
    """Harmonic means are concave, so the mean over ten classes lies below that of the averages printed beside it."""
    averages = values("objects").xs("average_of_10", level="case").dropna()
    assert len(averages) == 7
    for _, row in averages.iterrows():
        whole = 100 * protocols.h_o(row["acc_e"] / 100, row["acc_s"] / 100, row["acc_g"] / 100)
        assert 0 < row["h_o"] < whole


def test_accuracies_of_objects_are_no_shares_of_their_images() -> None:
    """200 images of a class, 600 of its synonyms: top-1 would be whole images. So these are mean probabilities."""
    table = values("objects").drop("average_of_10", level="case")
    for number, n in (("acc_e", 200), ("acc_g", 600)):
        nearest = (table[number] / 100 * n).round() * 100 / n
        off = (nearest - table[number]).abs() > 0.0051
        assert off.mean() > 0.5
    said = read_published(SET, "objects").said["numbers"]
    assert all("clip-softmax@1" in of["protocol"] for of in said.values())


def test_styles_differ_by_what_is_printed() -> None:
    for _, row in values("styles").dropna().iterrows():
        assert protocols.h_a(row["clip_e"], row["clip_s"]) == pytest.approx(row["h_a"], abs=1e-9)


def test_parts_of_explicit_content_add_up() -> None:
    table = values("explicit")
    parts = [name for name in table if name not in ("total", "fid_30k", "clip_30k")]
    assert len(parts) == 8
    assert (table[parts].sum(axis=1) == table["total"]).all()


def test_both_sources_of_celebrities_agree_on_a_hundred() -> None:
    counted = values("celebrities").xs("100", level="case")["acc_e"]
    whole = values("celebrities_100").droplevel("case")["acc_e"]
    assert dict(counted) == dict(whole.drop("SD v2.1"))


# The set


@pytest.mark.parametrize("table", TABLES)
def test_every_number_of_the_set_has_a_protocol_or_a_reason(table: str) -> None:
    said = read_published(SET, table).said
    for of in said["numbers"].values():
        assert of["protocol"] is None or name_of(of["protocol"]) in known()
        assert (of["protocol"] is None) == ("because" in of)


def test_every_file_of_published_values_is_of_the_set() -> None:
    files = {Path(read_published(SET, table).file).name for table in TABLES}
    assert files == {path.name for path in SET.parent.glob("*.csv")}
    text = (SET.parent / "README.md").read_text()
    assert all(f"`{name}`" in text for name in files)


WHOLE: dict[str, Any] = {
    "source": "somebody",
    "file": "p.csv",
    "rows": {"method": "method", "concept": "concept"},
    "numbers": {"acc": {"number": "acc_e", "protocol": "clip-top1@1 of 10 classes by some/clip"}},
}


def written(folder: Path, said: Any, csv: str = "method,concept,acc\nMACE,ship,5\n") -> Path:
    """A set of one table `t`, and its values."""
    (folder / "p.csv").write_text(csv)
    (folder / "set.yaml").write_text(yaml.safe_dump({"tables": {"t": said}}))
    return folder / "set.yaml"


NUMBER = WHOLE["numbers"]["acc"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            None,
            "tables.t must have the keys source, file, rows and numbers, and may have average and filled_by; got null",
        ),
        ({**WHOLE, "colour": 1}, "must have the keys source"),
        ({**WHOLE, "average": 10}, "must give average and filled_by as cases with what each is"),
        ({**WHOLE, "file": 7}, "must name in file a CSV file beside the set; got 7"),
        ({**WHOLE, "rows": {"concept": "concept"}}, "must name in rows the column of its methods"),
        ({**WHOLE, "rows": {"method": "m", "concept": "c", "count": "n"}}, "at most one of concept and count"),
        (
            {**WHOLE, "numbers": {"acc": {"number": "acc_e"}}},
            "must say of each of its numbers the number and the protocol",
        ),
        (
            {**WHOLE, "numbers": {"acc": {**NUMBER, "protocol": None}}},
            "says of acc that its protocol is not known; it must",
        ),
        (
            {**WHOLE, "numbers": {"acc": {**NUMBER, "protocol": "clip-top@1 by x"}}},
            "gives acc the unknown protocol 'clip-top@1 by x'; did you mean clip-top1@1?",
        ),
        (
            {**WHOLE, "numbers": {"acc": {**NUMBER, "times": "many"}}},
            "must say of each of its numbers the number and the",
        ),
    ],
)
def test_a_set_that_is_none_is_refused(tmp_path: Path, said: Any, told: str) -> None:
    with pytest.raises(ValueError, match=r"set.yaml: tables\.t ") as error:
        read_published(written(tmp_path, said), "t")
    assert told in str(error.value)


def test_a_table_that_is_not_in_a_set_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    with pytest.raises(ValueError, match=r"set.yaml: it has no table 'u'\. Its tables: t"):
        read_published(path, "u")
    path.write_text("tables: [")
    with pytest.raises(ValueError, match=r"set.yaml: this is no set of published tables \(ParserError\)"):
        read_published(path, "t")
    with pytest.raises(ValueError, match=r"none.yaml: this is no set of published tables \(FileNotFoundError\)"):
        read_published(tmp_path / "none.yaml", "t")


@pytest.mark.parametrize(
    ("csv", "told"),
    [
        ("method,acc\nMACE,5\n", "p.csv: there is no column 'concept'; its columns are method, acc"),
        ("method,concept,acc\nMACE,ship,five\n", "p.csv, line 2: acc is no number, but 'five'"),
        ("method,concept,acc\nMACE,ship,nan\n", "p.csv, line 2: acc is no number, but 'nan'"),
        ("method,concept,acc\nMACE,ship,5\nMACE,ship,6\n", "p.csv, line 3: MACE ship is there twice; remove one"),
        ("method,concept,acc\nMACE,ship\n", "p.csv, line 2: there are fewer cells than columns"),
    ],
)
def test_values_that_are_none_are_refused(tmp_path: Path, csv: str, told: str) -> None:
    published = read_published(written(tmp_path, WHOLE, csv), "t")
    with pytest.raises(ValueError, match=told):
        read_values(published.file, published.said)


def test_tasks_are_told_apart_by_what_the_rows_are() -> None:
    by_concept, by_count, alone = ({"rows": {"method": "m", **kind}} for kind in ({"concept": "c"}, {"count": "c"}, {}))
    tasks = [["a", ["ship"]], ["b", ["bird"]]]
    assert cases_of(by_concept, tasks) == {"ship": "a", "bird": "b"}
    assert cases_of(by_count, [tasks[0], ["c", ["x", "y"]]]) == {"1": "a", "2": "c"}
    assert cases_of(alone, tasks[:1]) == {"": "a"}
    for said in (by_count, alone):
        with pytest.raises(ValueError, match="tasks a and b are the same row of the published table; leave one out"):
            cases_of(said, tasks)
    with pytest.raises(ValueError, match="has a row for one concept, and task c erases 2"):
        cases_of(by_concept, [["c", ["x", "y"]]])


# Side by side

OURS = ["task", "method", "number", "value", "n", "low_95", "high_95", "protocol"]
PROTOCOL = NUMBER["protocol"]
SAID = WHOLE | {"average": {"mean": 2}}


def found(
    theirs: list[tuple[str, str, float]], ours: list[tuple], said: dict = SAID, **methods: str
) -> dict[tuple[str, str], dict]:
    """The lines of published values and ours, by method and case."""
    printed = pd.DataFrame(theirs, columns=["method", "case", "value"]).assign(number="acc")
    numbers = pd.DataFrame(ours, columns=OURS)
    tasks = [("a", ["ship"]), ("b", ["bird"])]
    table = beside(printed, numbers, said, name="mine", methods=methods or {"mace": "MACE"}, tasks=tasks)
    assert list(table.columns) == COLUMNS
    return {(row["method"], row["case"]): row for row in table.to_dict("records")}


def test_ours_stands_beside_theirs_with_interval_n_and_difference() -> None:
    ours = [("a", "mace", "acc_e", 7.5, 200, 6.0, 9.0, PROTOCOL), ("b", "mace", "acc_e", 2.5, 100, 1.0, 4.0, PROTOCOL)]
    lines = found([("MACE", "ship", 5.0), ("MACE", "mean", 3.0), ("UCE", "ship", 4.0), ("MACE", "cat", 1.0)], ours)
    line = lines["MACE", "ship"]
    assert [line[c] for c in ("published", "ours", "low_95", "high_95", "n", "difference", "protocol", "note")] == [
        *(5.0, 7.5, 6.0, 9.0, 200, 2.5),
        PROTOCOL,
        "",
    ]
    line = lines["MACE", "mean"]
    assert (line["ours"], line["n"], line["difference"]) == (5.0, 300, 2.0)
    assert math.isnan(line["low_95"])
    assert line["note"] == "mean of the 2; no interval"
    line = lines["MACE", "bird"]  # which nobody published
    assert (line["ours"], line["note"]) == (2.5, "not published")
    assert math.isnan(line["published"])
    assert math.isnan(line["difference"])


def test_what_nobody_ran_stays_empty_and_says_what_fills_it() -> None:
    ours = [("a", "mace", "acc_e", 7.5, 200, 6.0, 9.0, PROTOCOL)]
    said = SAID | {"filled_by": {"dog": "dogs (dogs.yaml)"}}
    theirs = [
        ("UCE", "ship", 4.0),
        ("MACE", "cat", 1.0),
        ("MACE", "dog", 1.0),
        ("UCE", "dog", 1.0),
        ("MACE", "mean", 3.0),
    ]
    lines = found(theirs, ours, said)
    told = {key: line["note"] for key, line in lines.items()}
    calls = "with a method that tables.mine.published.methods calls so, the target"
    assert told["UCE", "ship"] == f"nobody ran it here; {calls} mine fills this cell"
    assert told["UCE", "dog"] == f"nobody ran it here; {calls} dogs (dogs.yaml) fills this cell"
    assert told["MACE", "cat"] == "nobody ran it here; the target mine, with a task for it, fills this cell"
    assert told["MACE", "dog"] == "nobody ran it here; the target dogs (dogs.yaml) fills this cell"
    assert told["MACE", "mean"].startswith("the mean is over 2, and 1 were run; the target mine")
    assert told["MACE", "bird"] == "results/tables/mine.numbers.csv has no acc_e: the evaluation does not measure it"
    for key, line in lines.items():
        assert math.isnan(line["ours"]) == (key != ("MACE", "ship"))
        assert math.isnan(line["difference"])
        assert pd.isna(line["n"]) == (key != ("MACE", "ship"))


def test_two_protocols_are_not_put_into_one_column() -> None:
    other = "clip-softmax@1 of 10 classes by some/clip"
    ours = [("a", "mace", "acc_e", 7.5, 200, 6.0, 9.0, other)]
    line = found([("MACE", "ship", 5.0)], ours)["MACE", "ship"]
    assert math.isnan(line["ours"])
    assert pd.isna(line["n"])
    assert line["note"] == f"not compared: {other} and {PROTOCOL} are two protocols, which never share a column"
    line = found([("MACE", "ship", 5.0)], [(*ours[0][:7], "")])["MACE", "ship"]
    assert (math.isnan(line["ours"]), line["note"]) == (True, "not compared, as our acc_e names no protocol")
    unknown = WHOLE | {"numbers": {"acc": {"number": "acc_e", "protocol": None, "because": "nobody says"}}}
    line = found([("MACE", "ship", 5.0)], [(*ours[0][:7], PROTOCOL)], unknown)["MACE", "ship"]
    assert math.isnan(line["ours"])
    assert line["note"].endswith("the protocol of the published value is not known: nobody says")
    assert line["protocol"] == ""


def test_a_number_of_no_image_says_so() -> None:
    ours = [("a", "mace", "acc_e", math.nan, 0, math.nan, math.nan, PROTOCOL)]
    line = found([("MACE", "ship", 5.0)], ours)["MACE", "ship"]
    assert (line["n"], line["note"]) == (0, "none of our images counts")
    assert math.isnan(line["ours"])


def test_a_method_that_is_called_nothing_has_a_row_of_its_own() -> None:
    ours = [("a", name, "acc_e", 7.5, 200, 6.0, 9.0, PROTOCOL) for name in ("original", "mace", "mine")]
    lines = found([("SD v1.4", "ship", 90.0)], ours, original="SD v1.4")
    assert lines["SD v1.4", "ship"]["ours"] == 7.5
    assert lines["mine", "ship"]["note"] == "not published"
    assert ("original", "ship") not in lines
