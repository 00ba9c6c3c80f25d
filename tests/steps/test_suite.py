"""The steps that make a suite's table: its rows are those that samples draw, and prompts are fetched whole or not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lethe.inputs.suites import suite_rows
from lethe.steps import i2p, suite
from lethe.steps.job import Job

PROMPTS = ["a, b", 'the "sea"', " NA", "two\nlines", "=1+1", "Böcklin; {}"]
HEADER = "type,prompt,evaluation_seed,scale,w\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    rows = [("x", prompt, k, k / 2, 64 + 8 * k) for k, prompt in enumerate(PROMPTS)]
    pd.DataFrame(rows, columns=HEADER.strip().split(",")).to_csv(path, index=False)
    return path


def made(rows: dict, count: int | None, out: Path) -> Path:
    suite.run(SimpleNamespace(settings=SimpleNamespace(rows=rows, count=count), out={"rows": out}))
    return out


@pytest.mark.parametrize("own", [{}, {"guidance": "scale", "width": "w"}])
def test_a_table_of_rows_reads_as_the_suite_that_it_was_made_of(tmp_path: Path, file: Path, own: dict) -> None:
    entry = {
        "file": str(file),
        "columns": {"type": "type", "prompt": "prompt", "evaluation_seed": "evaluation_seed"} | own,
    }
    out = made(entry, None, tmp_path / "results" / "suite.csv")
    assert out.read_text().splitlines()[0] == ",".join(
        f'"{name}"' for name in ["type", "prompt", "evaluation_seed", *own]
    )
    again = suite_rows(
        {"file": str(out), "columns": {name: name for name in ("type", "prompt", "evaluation_seed", *own)}}
    )
    assert again.equals(suite_rows(entry))
    assert list(again["prompt"]) == PROMPTS
    assert made({"file": str(out)} | ({"columns": entry["columns"] | {k: k for k in own}} if own else {}), None, out)


def test_rows_that_are_fewer_than_the_suite_was_planned_with_are_refused(tmp_path: Path, file: Path) -> None:
    assert made({"file": str(file), "rows": 4}, 4, tmp_path / "a.csv").is_file()
    with pytest.raises(ValueError, match=r"mine\.csv: it has 6 rows, and the suite asks for 7 \(rows\)"):
        made({"file": str(file), "rows": 7}, 7, tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()


def fetch(url: str, sha256: str | None, folder: Path) -> Path:
    out = {"prompts": folder / "i2p.csv", "record": folder / "source.json"}
    i2p.run(Job(["lethe.steps.i2p"], SimpleNamespace(url=url, sha256=sha256), 1, {}, out))
    return folder


def test_prompts_are_fetched_with_what_came_written_down(tmp_path: Path, file: Path) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    for sha256 in (found, None):
        folder = fetch(file.as_uri(), sha256, tmp_path / f"known-{bool(sha256)}")
        assert (folder / "i2p.csv").read_bytes() == file.read_bytes()
        assert json.loads((folder / "source.json").read_text()) == {"url": file.as_uri(), "sha256": found}


def test_other_prompts_than_those_expected_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.csv: its SHA-256 is [0-9a-f]{64}, not 0{64}"):
        fetch(file.as_uri(), "0" * 64, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
