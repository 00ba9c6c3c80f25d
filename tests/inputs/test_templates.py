"""Templates: which lines of a file are some, and that every other one is refused by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bad_input import Act, Case, Place, each_of, file_for, refusals
from lethe.inputs.concepts import KINDS
from lethe.inputs.templates import SHIPPED, fill, read_templates


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.txt")), ids=lambda p: p.stem)
def test_shipped_templates_are_thirty_different_prompts(path: Path) -> None:
    templates = read_templates(path)
    assert len(set(templates)) == len(templates) >= 30
    assert all(fill(template, "X").count("X") == 1 for template in templates)


def test_each_kind_of_concept_has_templates() -> None:
    assert {path.stem for path in SHIPPED.glob("*.txt")} == set(KINDS)


def test_read_templates_skips_blank_lines_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("# one {} and {}\n\n  a {} \r\n   \nthe {} à Paris\n", encoding="utf-8")
    assert read_templates(path) == ["a {}", "the {} à Paris"]


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\v", "\f"])
def test_read_templates_takes_no_other_sign_for_the_end_of_a_line(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(f"a {{}}\nthe {{}}{inside}a {{}} here\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.txt, line 2: .*holds an invisible or control character; remove it"):
        read_templates(path)
    path.write_text("a {}\rthe {}\r")
    with pytest.raises(ValueError, match=r"bad\.txt, line 1: it holds a carriage return that ends no line"):
        read_templates(path)


@pytest.mark.parametrize("bad", ["a photo", "{} and {}", "a { }"])
def test_read_templates_names_file_and_line_of_a_bad_template(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(f"# a comment\na {{}}\n{bad}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.txt, line 3: a template must contain \{\} exactly once") as error:
        read_templates(path)
    assert repr(bad) in str(error.value)


def test_read_templates_refuses_a_file_without_any(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("# nothing\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt: no template found; write one per line"):
        read_templates(path)


@pytest.mark.parametrize("phrase", ["{}", "{0}", "a {} b", "\\1", "%s"])
def test_fill_takes_a_phrase_literally(phrase: str) -> None:
    assert fill("the {} here", phrase) == "the " + phrase + " here"


# Bad input


def template_travels(place: Place) -> Act:
    path = place.write("words.txt", "\ufeffa {} of {0} and $(touch canary)\r\n")

    def act() -> None:
        assert read_templates(path) == ["a {} of {0} and $(touch canary)"]

    return act


CASES = [
    *refusals(
        "templates",
        {
            "escape sequence": ("a \x1b[31m{}\n", ("words.txt, line 1", "invisible or control character; remove it")),
            "byte order mark inside": ("a {}\n\ufeffthe {}\n", ("words.txt, line 2", "invisible or control character")),
            "latin-1": ("a {}\ncafé {}\n".encode("latin-1"), ("words.txt, line 2: it is no text in UTF-8",)),
            "format": ("a {0} {name}\n", ("words.txt, line 1: a template must contain {} exactly once",)),
        },
        file_for(read_templates, "words.txt"),
    ),
    Case("templates: byte order mark, CRLF and other braces", template_travels),
]


@each_of(CASES)
def test_a_bad_file_is_refused_by_its_line_and_an_odd_one_read_as_it_is(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
