"""Concept tables: what is read, and that every fault is named with its row, its column and a mend."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bad_input import HEADER, NAMES, Act, Case, Place, Prepare, as_table, each_of, handled, refusals, started_with
from lethe.files.shards import read_cells, read_rows, write_shard
from lethe.inputs.concepts import Concept, read_concepts, slug_of
from lethe.jobs import encode_argument
from lethe.messages import ConfigError
from running import ROOT


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "concepts.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_concepts(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("ship", "ship"),
        ("Jean-Luc  Godard", "jean-luc-godard"),
        ("NA", "na"),
        (" Vincent van Gogh ", "vincent-van-gogh"),
        ("x" * 9 + " 0123456789" * 4, "x" * 9 + "-0123456789" * 4),
    ],
)
def test_slug(name, slug):
    assert slug_of(name) == slug == Concept(name, "object", "sky", ()).slug


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("Charles-François Daubigny", "charles-francois-daubigny"),
        ("AC/DC", "ac-dc"),
        ("$(rm -rf ~)", "rm-rf"),
        ("../x", "x"),
        ("Jean\u2011Luc  Godard!", "jean-luc-godard"),
        ("ﬁsh №5", "fish-no5"),
        ("a" + "0123456789" * 6, "a" + "0123456789" * 5),
    ],
)
def test_a_name_that_its_slug_does_not_hold_gets_a_hash_behind(name, beginning):
    slug = slug_of(name)
    assert slug == Concept(name, "object", "sky", ()).slug
    assert re.fullmatch(f"{re.escape(beginning)}-[0-9a-f]{{8}}", slug)
    assert len(slug) <= 60


@pytest.mark.parametrize(
    "names",
    [
        ("Bocklin", "Böcklin"),
        ("C", "C++", "C#"),
        ("AC/DC", "ac dc", "AC.DC"),
        ("O'Keeffe", "O Keeffe", "OKeeffe"),
        ("0123456789" * 6 + "1", "0123456789" * 6 + "2"),
        ("Ян", "Ян!", "Jan"),
    ],
)
def test_names_that_look_alike_in_latin_letters_have_files_of_their_own(tmp_path, names):
    rows = [f"{name}\tobject\tsky\t\n" for name in names]
    slugs = {concept.name: concept.slug for concept in read_concepts(write(tmp_path, HEADER + "".join(rows)))}
    assert len(set(slugs.values())) == len(names)
    for row in rows:  # whatever else the table holds, and in whatever order
        (alone,) = read_concepts(write(tmp_path, HEADER + row))
        assert alone.slug == slugs[alone.name]


@pytest.mark.parametrize("name", ["שלום", "日本", "...", "🚢", "", "ha" * 40, "x" * 20])
def test_a_name_that_leaves_nothing_or_repeats_itself_gets_its_hash(name):
    assert re.fullmatch("c-[0-9a-f]{10}", slug_of(name))


def test_names_that_leave_nothing_differ():
    assert slug_of("日本") != slug_of("中国")


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters()))
@example("-" * 100)
@example("\ud800")
@example("İ" * 100)
def test_a_slug_is_always_a_plain_file_name(name):
    slug = slug_of(name)
    assert re.fullmatch("[a-z0-9][a-z0-9-]*", slug, re.ASCII)
    assert len(slug) <= 60
    assert not slug.endswith("-")
    assert slug_of(slug) == slug


def test_the_shipped_table():
    concepts = read_concepts(ROOT / "config" / "concepts.tsv")
    assert [concept.name for concept in concepts] == ["ship", "automobile", "bird", "Twemoji"]
    assert concepts[0] == Concept("ship", "object", "ground", ("vessel", "boat", "watercraft"))


def test_names_are_text_whatever_they_look_like(tmp_path):
    names = ["NA", "null", "None", "1984", "1e5", "true", "$(rm -rf ~)", "AC/DC", "שלום", "-x", "#hash", "{}", "a;b"]
    path = write(tmp_path, HEADER + "".join(f"{name}\tperson\tNaN\t\n" for name in names))
    concepts = read_concepts(path)
    assert [concept.name for concept in concepts] == names
    assert {concept.anchor for concept in concepts} == {"NaN"}
    assert {concept.synonyms for concept in concepts} == {()}


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "ship\tobject\tground\tboat; vessel\n",
        "\ufeff" + HEADER + "ship\tobject\tground\tboat; vessel",
        HEADER.replace("\n", "\r\n") + "ship\tobject\tground\tboat; vessel\r\n",
        HEADER + "\n  ship \tobject\t ground\u00a0\t ;boat ;; vessel;\n\t\t\t\n",
        "synonyms\tanchor\tkind\tconcept\nboat;vessel\tground\tobject\tship\n",
        '"concept"\tkind\tanchor\tsynonyms\n"ship"\tobject\tground\t"boat;vessel"\n',
    ],
    ids=["plain", "BOM", "CRLF", "space", "order", "quotes"],
)
def test_one_table_many_spellings(tmp_path, text):
    assert read_concepts(write(tmp_path, text)) == [Concept("ship", "object", "ground", ("boat", "vessel"))]


def test_quotes_and_absent_last_cell(tmp_path):
    path = write(tmp_path, HEADER + '"""Weird Al"" Yankovic"\tperson\ta man\nDwayne "Rock" Johnson\tperson\ta man\n')
    assert [concept.name for concept in read_concepts(path)] == ['"Weird Al" Yankovic', 'Dwayne "Rock" Johnson']


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        ("concept\tkind\tsynonyms\nship\tobject\t\n", 1, ["column anchor is missing", "add it", "separated by tabs"]),
        ("", 1, ["column concept is missing", "add it"]),
        ("concept,kind,anchor,synonyms\nship,object,ground,\n", 1, ["column kind is missing", "separated by tabs"]),
        (HEADER[:-1] + "\tancor\n", 1, ["'ancor' is not a known column", "did you mean anchor?"]),
        (HEADER[:-1] + "\tlicence\n", 1, ["'licence' is not a known column", "remove it"]),
        (HEADER[:-1] + "\tkind\n", 1, ["column kind is there twice", "remove one"]),
        (HEADER, None, ["there are no rows", "add one"]),
        (HEADER + "\n \t\t\n", None, ["there are no rows", "add one"]),
        (HEADER + "ship\tobject\t \t\n", 2, ["column anchor of 'ship' is empty", "write what"]),
        (HEADER + "ship\tobject\n", 2, ["column anchor of 'ship' is empty", "write what"]),
        (HEADER + "\n \tobject\tsky\t\n", 3, ["column concept is empty", "write the phrase"]),
        (HEADER + "ship\tobjekt\tsky\t\n", 2, ["kind of 'ship'", "object, style, person, explicit", "mean object?"]),
        (HEADER + "ship\tOBJECT\tsky\t\n", 2, ["column kind of 'ship'", "got 'OBJECT'", "did you mean object?"]),
        (HEADER + "ship\t\tsky\t\n", 2, ["column kind of 'ship' must be one of", "got ''"]),
        (HEADER + "ship\tobject\tShip\t\n", 2, ["column anchor of 'ship' is the concept itself", "write what"]),
        (HEADER + "sh\0ip\tobject\tsky\t\n", 2, ["column concept", r"'sh\x00ip'", "control character", "remove it"]),
        (HEADER + '"a\nb"\tobject\tsky\t\n', 2, ["column concept", r"'a\nb'", "line break", "remove it"]),
        (HEADER + "a\u2028b\tobject\tsky\t\n", 2, ["column concept", r"'a\u2028b'", "line break"]),
        (HEADER + "ship\tobject\tsky\tbo\x1bat\n", 2, ["column synonyms", "control character"]),
        (HEADER + "ship\tobject\tsky\tboat\t1\n", 2, ["5 cells under 4 columns", "remove a tab"]),
        (HEADER + '"Al" Green\tperson\ta man\t\n', 2, ["quoted cell is malformed", "double each"]),
        (HEADER + 'ship\tobject\tsky\t\n"Al\tperson\ta man\t\n', 3, ["quoted cell is malformed"]),
        (HEADER.encode() + b"ship\tobject\tsky\t\nCh\xe9ri\tperson\ta man\t\n", 3, ["not UTF-8", "save the table as"]),
        ((HEADER + "ship\tobject\tsky\t\n").encode("utf-16"), 1, ["not UTF-8", "save the table as"]),
    ],
)
def test_each_fault_names_file_row_column_and_mend(tmp_path, text, row, words):
    path = write(tmp_path, text)
    place = f"{path}: row {row}: " if row else f"{path}: "
    found = problems_of(path)
    assert any(line.startswith(place) and all(word in line for word in words) for line in found), found


def test_one_fault_gives_one_sentence(tmp_path):
    rows = "ship\tobject\tsky\t\nbird\tobject\tsky\t\n"
    for text in (HEADER.replace("anchor", "licence\tanchor"), HEADER.replace("synonyms", "anchor\tsynonyms")):
        assert len(problems_of(write(tmp_path, text + rows.replace("object", "object\tsky")))) == 1
    assert len(problems_of(write(tmp_path, HEADER + rows.replace("sky", "", 1)))) == 1


def test_duplicates_name_both_rows(tmp_path):
    path = write(tmp_path, HEADER + "ship\tobject\tsky\t\nbird\tobject\tsky\t\n\nship\tobject\tground\t\n")
    assert problems_of(path) == [f"{path}: row 5: concept 'ship' is already in row 2; remove one of the two."]


@pytest.mark.parametrize(
    ("first", "second", "slug"),
    [
        ("ac-dc", "AC DC", "ac-dc"),
        ("é", "e\u0301", slug_of("É")),
        ("Böcklin", "BÖCKLIN", slug_of("böcklin")),
    ],
)
def test_shared_slugs_name_both_rows(tmp_path, first, second, slug):
    path = write(tmp_path, HEADER + f"{first}\tobject\tsky\t\n{second}\tobject\tsky\t\n")
    (line,) = problems_of(path)
    assert line.startswith(f"{path}: row 3: concept {second!r} and {first!r} in row 2 share the slug {slug},")
    assert "reword one" in line


def test_missing_file(tmp_path):
    path = tmp_path / "none.tsv"
    assert problems_of(path) == [f"{path}: there is no such file; correct the path."]
    assert problems_of(tmp_path)[0].startswith(f"{tmp_path}: unreadable")


def test_all_faults_come_together(tmp_path):
    rows = [
        "ship\tobject\t\t",
        "bird\tobjct\tsky\t",
        '"Al" Green\tperson\tx\t',
        "\tobject\tsky\t",
        "ship\tobject\tsky\t",
    ]
    found = problems_of(write(tmp_path, HEADER[:-1] + "\tnote\n" + "\n".join(rows) + "\n"))
    for words in (
        "row 1: 'note'",
        "row 2: column anchor",
        "row 3: column kind",
        "row 4: a quoted",
        "row 5: column con",
    ):
        assert sum(words in line for line in found) == 1, words
    assert len(found) == 6
    assert "row 6: concept 'ship' is already in row 2" in found[-1]


def test_comments_are_skipped_and_keep_the_numbers_of_rows(tmp_path: Path) -> None:
    header, row = "concept\tkind\tanchor\tsynonyms\n", "ship\tobject\tground\t\n"
    table = tmp_path / "concepts.tsv"
    table.write_text(
        f'# what we "erase\r\n{header}#\n{row}# bird\tobject\tsky\t\n#1\tobject\tsky\t\nC#\tobject\tsky\t\n'
    )
    assert [concept.name for concept in read_concepts(table)] == ["ship", "#1", "C#"]
    table.write_text(f"#\n{header}# two\n{row}{row}")
    assert problems_of(table) == [
        f"{table}: row 5: concept 'ship' is already in row 4; remove one of the two.",
    ]


# Bad input

ALIKE = ["C", "C++", "C#", "a quite long name " * 4 + "1", "a quite long name " * 4 + "2"]  # but each has its files
TABLE = "config/concepts.tsv"


def name_travels(name: str) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write(TABLE, as_table(name))
        place.config["tasks"]["objects"]["concepts"] = [name]

        def act() -> None:
            (concept,), suites = place.start()
            assert concept.name == name
            folder = Path("results/emoji/concepts")
            assert re.fullmatch("[a-z0-9][a-z0-9-]{0,59}", concept.slug)
            assert (folder / concept.slug).resolve().parent == folder.resolve()
            argument = encode_argument({"concept": name})
            assert not set(argument) & set("$`;|&<>~'*?!#%@=\\/()") - {"\\"}
            assert json.loads(argument) == {"concept": name}
            rows = suites["synonyms"]
            assert set(rows["type"]) == {name}
            write_shard(Path("results/shard.zip"), rows[:1], [np.zeros((2, 2, 3), np.uint8)])
            pd.testing.assert_frame_equal(read_rows(Path("results/shard.zip")), rows[:1])
            assert read_cells(Path("results/shard.zip"), "type") == [name]

        return act

    return prepare


def names_alike(place: Place) -> Act:
    place.write(TABLE, HEADER + "".join(f"{name}\tobject\tsky\tboat\n" for name in ["ship", *ALIKE]))

    def act() -> None:
        assert len({concept.slug for concept in place.start()[0]}) == 1 + len(ALIKE)

    return act


def same_table(content: str) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write(TABLE, content)

        def act() -> None:
            assert place.start()[0] == [Concept("ship", "object", "sky", ("boat",))]

        return act

    return prepare


def named(name: str) -> str:
    return HEADER + f"ship\tobject\tsky\t\n{name}\tobject\tsky\t\n"


INVISIBLE = ("concepts.tsv: row 3: column concept", "line break, invisible or control character", "remove it")
CASES = [
    *handled("a concept's name", {key: (name,) for key, name in NAMES.items()}, name_travels),
    Case("the concept table: names that share their first letters", names_alike),
    *refusals(
        "the concept table",
        {
            "line break in a name": (named('"a\nb"'), INVISIBLE),
            "carriage return in a name": (named('"a\rb"'), INVISIBLE),
            "NUL in a name": (named("a\0b"), INVISIBLE),
            "escape sequence in a name": (named("\x1b[31mred"), INVISIBLE),
            "zero-width space in a name": (named("sh\u200bip"), (*INVISIBLE, r"sh\u200bip")),
            "soft hyphen in a name": (named("sh\xadip"), INVISIBLE),
            "direction turned in a name": (named("ship\u202egpj.exe"), INVISIBLE),
            "direction isolated in a synonym": (
                named("boat\u2066").replace("sky\t\n", "sky\tx\u2067\n"),
                ("synonyms",),
            ),
            "tab in a name": (named("a\tb"), ("row 3: 5 cells under 4 columns", "remove a tab")),
            "spaces alone": (named(" \u00a0\u2003 "), ("row 3: column concept is empty", "or remove the row")),
            "half a surrogate pair": (
                HEADER.encode() + b"\xed\xa0\x80\tobject\tsky\t\n",
                ("concepts.tsv: row 2: these bytes are not UTF-8", "save the table as UTF-8"),
            ),
            "a name differs in case alone": (named("SHIP"), ("row 3", "share the slug ship", "reword one")),
            "a name differs in composition alone": (
                HEADER + "caf\xe9\tobject\tsky\t\ncafe\u0301\tobject\tsky\t\n",
                ("row 3", "row 2 share the slug cafe", "reword one"),
            ),
            "a name differs in a hyphen alone": (
                named("ship yard") + "Ship-Yard\tobject\tsky\t\n",
                ("row 4", "the slug"),
            ),
            "a cell of 200,000 letters": (named("x" * 200_000), ("row 3", "field larger than field limit")),
            "UTF-16": (named("x").encode("utf-16"), ("row 1: these bytes are not UTF-8",)),
            "latin-1": (named("café").encode("latin-1"), ("row 3: these bytes are not UTF-8",)),
            "a header twice": (
                HEADER[:-1] + "\tkind\nship\tobject\tsky\t\tx\n",
                ("row 1: the column kind is there twice",),
            ),
            "a quote left open": (
                named('"ship'),
                ("row 3: a quoted cell is malformed", 'by another, and double each "'),
            ),
            "a row too long": (named("a") + "b\tobject\tsky\tx\ty\n", ("row 4: 5 cells under 4 columns",)),
        },
        started_with(TABLE),
    ),
    *handled(
        "the concept table",
        {
            "byte order mark": ("\ufeff" + HEADER + "ship\tobject\tsky\tboat\n",),
            "CRLF": ((HEADER + "ship\tobject\tsky\tboat\n").replace("\n", "\r\n"),),
        },
        same_table,
    ),
]


@each_of(CASES)
def test_a_bad_table_is_refused_and_an_odd_name_or_table_read_as_it_is(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
