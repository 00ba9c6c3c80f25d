"""Priors: the texts of every source, in order and with repetitions; what is malformed is refused by place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bad_input import PICKLE, Case, Place, each_of, file_for, refusals
from lethe.inputs.coco import read_coco_captions
from lethe.inputs.priors import prior_files, prior_texts
from running import coco_file


def test_coco_captions_come_in_the_order_of_their_files_and_annotations(tmp_path: Path) -> None:
    first = coco_file(tmp_path / "a.json", ["A ship.", "Ünder a bridge \n", "A ship."])
    second = coco_file(tmp_path / "b.json", ["  A bird"])
    assert read_coco_captions(first) == ["A ship.", "Ünder a bridge", "A ship."]
    prior = {"coco": [str(second), str(first)]}
    assert prior_texts(prior) == ["A bird", "A ship.", "Ünder a bridge", "A ship."]
    assert prior_files(prior) == [str(second), str(first)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "bad.json: this is no JSON ("),
        ('{"annotations": [{"caption": "a sh', "bad.json: this is no JSON ("),
        (b'{"annotations": [{"caption": "caf\xe9"}]}', "bad.json: this is no JSON ("),
        ("[]", "bad.json: it has no list of annotations; name a COCO caption file (captions_*.json)"),
        ("{}", "bad.json: it has no list of annotations"),
        ({"annotations": []}, "bad.json: it has no list of annotations"),
        ({"annotations": {"caption": "a"}}, "bad.json: it has no list of annotations"),
        ({"annotations": [{"caption": "a"}, {"bbox": [0, 0]}]}, "bad.json: annotation 1 has no text under 'caption'"),
        ({"annotations": [{"caption": 7}]}, "bad.json: annotation 0 has no text under 'caption'"),
        ({"annotations": ["a ship"]}, "bad.json: annotation 0 has no text under 'caption'"),
        ({"annotations": [{"caption": "a"}, {"caption": " \n"}]}, "bad.json: the caption of annotation 1 is empty"),
    ],
)
def test_other_json_is_refused_by_place(tmp_path: Path, content: object, words: str) -> None:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (tmp_path / "bad.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_coco_captions(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


def test_some_of_the_texts_of_a_file_are_named_by_their_places(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Ada\nÉmile\n\nIda\n", encoding="utf-8")
    prior = {"file": str(names), "words": [2, 3], "templates": ["{}", "the {}"]}
    assert prior_texts(prior) == ["Émile", "the Émile", "Ida", "the Ida"]
    with pytest.raises(ValueError, match=r"names\.txt: words must be at most 3, which is how many there are; got 9"):
        prior_texts(prior | {"words": [2, 9]})


def test_names_are_put_into_every_template_of_a_file_or_list(tmp_path: Path) -> None:
    names, templates = tmp_path / "names.tsv", tmp_path / "templates.txt"
    names.write_text("rank\tname\n1\tAda {} Lovelace\n2\tÉmile Zola\n", encoding="utf-8")
    templates.write_text("# of people\na photo of {}\n\n{} in a park\n")
    want = [
        "a photo of Ada {} Lovelace",
        "Ada {} Lovelace in a park",
        "a photo of Émile Zola",
        "Émile Zola in a park",
    ]
    prior = {"file": str(names), "column": "name", "templates": str(templates)}
    assert prior_texts(prior) == want
    assert prior_files(prior) == [str(names), str(templates)]
    listed = prior | {"templates": ["a photo of {}", "{} in a park"]}
    assert prior_texts(listed) == want
    assert prior_files(listed) == [str(names)]


def test_texts_without_templates_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a {} ship\na bird\na {} ship\n")
    prior = {"file": str(tmp_path / "captions.txt")}
    assert prior_texts(prior) == ["a {} ship", "a bird", "a {} ship"]
    assert prior_files(prior) == [str(tmp_path / "captions.txt")]


# Bad input

CASES = [
    *refusals(
        "a prior's texts",
        {
            "NUL": ("text\na\0b\n", ("texts.csv, line 2: it holds a NUL",)),
            "row too long": ("text\na,b\n", ("texts.csv, line 2: there are more cells than columns", "in quotes")),
            "quote left open": ('text\n"a\n', ("texts.csv, line 2: it cannot be read",)),
        },
        file_for(lambda path: prior_texts({"file": str(path), "column": "text"}), "texts.csv"),
    ),
    *refusals(
        "COCO's captions",
        {
            "no JSON": (PICKLE, ("coco.json: this is no JSON", "name a COCO caption file")),
            "nested a hundred thousand deep": (
                "[" * 100_000,
                ("coco.json: its JSON is nested too deep", "name a COCO"),
            ),
        },
        file_for(lambda path: prior_texts({"coco": [str(path)]}), "coco.json"),
    ),
]


@each_of(CASES)
def test_a_bad_file_of_texts_is_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
