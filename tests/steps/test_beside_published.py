"""The step that puts a table beside a published one: the three files, whatever names hold."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lethe.steps.beside_published import as_latex, as_markdown, as_text, run

NUMBERS = """task,method,number,value,n,low_95,high_95,protocol
a,NA,acc_e,12.3456,200,8.1,17.9,clip-top1@1
a,original,acc_e,,0,,,clip-top1@1
"""
VALUES = 'method,acc\n"A|B & 100%_$x$",11\nSD v1.4,90\n'
SAID = {
    "source": "somebody",
    "rows": {"method": "method"},
    "numbers": {"acc": {"number": "acc_e", "protocol": "clip-top1@1"}},
}
ODD = "A|B & 100%_$x$"


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    reads = {"numbers": tmp_path / "t.numbers.csv", "values": tmp_path / "p.csv"}
    reads["numbers"].write_text(NUMBERS)
    reads["values"].write_text(VALUES)
    out = {"beside": tmp_path / "c.csv", "markdown": tmp_path / "c.md", "latex": tmp_path / "c.tex"}
    methods = {"NA": ODD, "original": "SD v1.4"}  # a method may have a name that tables take for nothing
    settings = SimpleNamespace(name="t", published=SAID, methods=methods, tasks=[["a", ["ship"]]])
    run(SimpleNamespace(settings=settings, read=reads.__getitem__, out=out))
    return out


def test_the_table_holds_ours_beside_theirs(made: dict[str, Path]) -> None:
    table = pd.read_csv(made["beside"])
    assert list(table["method"]) == [ODD, "SD v1.4"]
    first, second = table.to_dict("records")
    assert (first["published"], first["ours"], first["n"], first["difference"]) == (11, 12.3456, 200, 1.3456)
    assert (first["low_95"], first["high_95"], first["protocol"]) == (8.1, 17.9, "clip-top1@1")
    assert pd.isna(second["ours"])
    assert (second["n"], second["note"]) == (0, "none of our images counts")


def cells(line: str) -> list[str]:
    """The cells of a line of Markdown, as they are shown."""
    parts = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\([\\`*_{}\[\]<>|~#])", r"\1", part.strip()) for part in parts]


def test_markdown_has_the_same_cells(made: dict[str, Path]) -> None:
    head, rule, *lines = made["markdown"].read_text().splitlines()
    table = pd.read_csv(made["beside"])
    assert cells(head) == list(table.columns)
    assert set(rule) <= set("|:- ")
    assert len(lines) == len(table)
    first = dict(zip(table.columns, cells(lines[0]), strict=True))
    assert first["method"] == ODD
    assert (first["published"], first["ours"], first["n"]) == ("11.00", "12.35", "200")
    assert cells(lines[1])[4] == ""


def test_latex_has_no_command_of_a_name(made: dict[str, Path]) -> None:
    text = made["latex"].read_text()
    assert r"A|B \& 100\%\_\$x\$" in text
    assert r"low\_95" in text
    assert text.startswith(r"\begin{longtable}")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 10 for line in body if "multicolumn" not in line)
    assert "12.35" in text
    assert "nan" not in text.lower().replace("none of our images", "")


@pytest.mark.parametrize("text", [r"\input{x}", "a\nb", "<b>", "*x* _y_ `z`", "~^#{}", "[a](b)", "| |"])
def test_no_text_is_anything_but_text(text: str) -> None:
    table = as_text(pd.DataFrame({"method": [text]}))
    plain = " ".join(text.split())
    markdown = as_markdown(table).splitlines()
    assert len(markdown) == 3
    assert cells(markdown[2]) == [plain]
    assert r"\input{" not in as_latex(table)


def test_the_same_bytes_twice(made: dict[str, Path], tmp_path: Path) -> None:
    before = {name: path.read_bytes() for name, path in made.items()}
    settings = SimpleNamespace(
        name="t", published=SAID, methods={"NA": ODD, "original": "SD v1.4"}, tasks=[["a", ["ship"]]]
    )
    reads = {"numbers": tmp_path / "t.numbers.csv", "values": tmp_path / "p.csv"}
    run(SimpleNamespace(settings=settings, read=reads.__getitem__, out=made))
    assert {name: path.read_bytes() for name, path in made.items()} == before
