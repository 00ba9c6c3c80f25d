"""Protocols by name: every one that a table gives is explained, and two never share a column."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lethe.plugins import manifest
from lethe.tables import attacks, explicit, objects, people, protocols, recognised, sets, styles
from lethe.tables.known import apart, arguments_of, known, name_of, one_protocol

ABOUT = {"clip": "some/clip", "classes": 10, "reference_images": "photographs"}
NAMES = (*protocols.__dict__.values(), *explicit.__dict__.values(), people.FIRST_FACE, people.FACE_RATIO)
NAMES += (recognised.COUNTED, attacks.FRESH_SEEDS)
CONSTANTS = {value for value in NAMES if isinstance(value, str) and re.fullmatch(r"[\w.-]+@\d+", value)}
OF_TRIALS = ["base", "edit", "probe", "concept", "arm", "part", "phase", "best", "named", "instance", "reporter_yes"]
NO_TRIALS = pd.DataFrame(columns=[*OF_TRIALS, "worth", "texts"])
OF_ATTACKS = {"base": "x", "concepts": [], "ghosts": [], "edits": [["mace", "x/mace"]], "probes": [["p", "noise"]]}
OF_ATTACKS |= {"clip": "some/clip"}


def test_every_protocol_that_a_table_gives_is_one_of_ours() -> None:
    given = {line["protocol"] for line in attacks.rows(NO_TRIALS, OF_ATTACKS)}
    for table in (objects, people, explicit, styles, recognised):
        columns = [*table.SOURCES, "acc_e_class_probability", "h_o_class_probability", "clip_score_unnamed"]
        given |= set(table.table_protocols({}, ABOUT, columns).values())
    names = {name for protocol in given for name in re.findall(r"[\w.-]+@\d+", protocol)} | {protocols.MEAN}
    ours = {name for name, of in known().items() if "elsewhere" not in of}
    assert names == ours == CONSTANTS


def test_numbers_of_any_images_have_the_protocols_of_tables() -> None:
    """`lethe measure` and a table say the same of the same images, down to value and interval."""
    rng = np.random.default_rng(1)
    pairs = pd.DataFrame({"type": "x", "image": list(rng.normal(size=(9, 4))), "text": list(rng.normal(size=(9, 4)))})
    features = pd.DataFrame({"features": list(rng.normal(size=(12, 3)))})
    boxes = pd.DataFrame({"box_class": [["BELLY_EXPOSED"] * 2, []], "box_score": [[0.9, 0.7], []]})
    faces = pd.DataFrame({"type": "A B", "faces": [1, 2, 0], "identity": ["A_B_[1]", "C_[2]", ""]})
    faces["probability"] = [0.9, 0.8, np.nan]
    about = ABOUT | {"measure": "brightness: channel 1"}
    ours = [*sets.clip_score(pairs, about), *sets.distances(features, features[::-1], about)]
    ours += [*sets.exposed(boxes, about, threshold=0.45), *sets.exposed(boxes, about, threshold=0.6)[:-1]]
    ours += sets.identities(faces, about)
    found = {(one.name, one.protocol): (one.value, one.interval) for one in ours}
    assert len(found) == len(ours)

    both = {"erased": {"clip": pairs, "identities": faces}, "kept": {"clip": pairs, "identities": faces}}
    both["kept"] = {name: table.assign(type="other") for name, table in both["kept"].items()}
    both |= {"explicit": {"nudenet": boxes}, "quality": {"clip": pairs.assign(prompt="a y"), "fid": features}}
    both["reference_images"] = {"fid": features[::-1]}
    shared = set()
    for table, names in {
        styles: {"clip_score": "clip_score", "fid_inception": "fid_inception", "kid_inception": "kid_inception"},
        explicit: {"exposed": "exposed", "belly_exposed": "belly_exposed", "images_045": "images"},
        people: {"acc_e": "A B"},
    }.items():
        arguments = arguments_of(manifest("tables", "explicit").more["protocols"])
        row = table.row(both, {"concepts": ["x", "A B"], "protocols": arguments})
        told = table.table_protocols({}, ABOUT, list(row.cells))
        by = {name: protocol for keys, protocol in told.items() for name in keys.split(", ")}
        for name, called in names.items():
            assert found[called, by[name]] == (row.cells[name], row.details.get(f"{name}_interval_95"))
            shared.add(name_of(by[name]))
    (mean,) = sets.means(pd.DataFrame({"brightness": [1.0, 2.0]}), about)
    assert mean.protocol == "mean@1 of brightness by brightness: channel 1"
    assert {name_of(protocol) for _, protocol in found} == shared | {people.FACE_RATIO}
    assert {name_of(protocol) for _, protocol in found} | {name_of(mean.protocol)} <= known().keys()


def test_each_says_what_it_means_and_who_publishes_by_it() -> None:
    for name, of in known().items():
        assert re.fullmatch(r"[\w.-]+@\d+", name)
        assert {"means", "source"} <= of.keys() <= {"means", "source", "arguments", "elsewhere"}
        assert of["means"].endswith(".")
        assert not ("arguments" in of and "elsewhere" in of)


def test_arguments_are_those_that_the_manifest_names() -> None:
    names = manifest("tables", "explicit").more["protocols"]
    assert set(names) == {name for name, of in known().items() if "arguments" in of}
    assert tuple(arguments_of(names)[explicit.BOXES]["classes"]) == explicit.EIGHT
    assert tuple(arguments_of(names)[explicit.CLASS_IMAGES]["classes"]) == explicit.NINE
    with pytest.raises(ValueError, match=r"protocols.yaml: there are no arguments of 'clip-top1@1'; add them"):
        arguments_of(["clip-top1@1"])


def test_a_protocol_is_its_name_and_all_that_follows() -> None:
    protocol = "clip-score-100cos@1 by openai/clip-vit-base-patch32"
    assert name_of(protocol) == "clip-score-100cos@1"
    assert apart(protocol, protocol) == ""
    assert apart(protocol, "clip-score-100cos@1 by other") == (
        f"{protocol} and clip-score-100cos@1 by other are two protocols, which never share a column"
    )
    told = apart("cleanfid-clean-fid@1 to val2014", "fid-own-outputs-1k@1")
    assert told.endswith("(fid-own-outputs-1k@1: it compares with what the base draws and not with photographs)")


def test_a_column_has_one_protocol_or_a_sentence() -> None:
    assert one_protocol("fid", {"a": "x@1", "b": "x@1"}) == "x@1"
    told = "the column fid of a and c: x@1 and y@1 are two protocols, which never share a column; measure both alike"
    with pytest.raises(ValueError, match=told):
        one_protocol("fid", {"a": "x@1", "b": "x@1", "c": "y@1"})


def test_the_data_is_part_of_the_library() -> None:
    root = Path(__file__).parents[2]
    assert (root / "workflow" / "lethe" / "protocols.yaml").is_file()
