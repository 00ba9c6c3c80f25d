"""What the documents show in Python, and README's example, run as they stand there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nbformat
import pandas as pd
from nbclient import NotebookClient

from running import ROOT, planned, snakemake


def test_the_page_about_python_does_what_it_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- python -->\n```python\n(.+?)```", page, re.DOTALL)
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    run = subprocess.run(
        [sys.executable, "-c", shown],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    before, after = (eval(line) for line in run.stdout.splitlines()[-2:])
    assert before == ["ship", "bird", "cat", "dog", "house"]
    assert after[2:] == before[2:]
    assert after[0] != "ship"
    assert after[1] != "bird"
    assert (tmp_path / "two-things.safetensors").is_file()


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    shown = sum("image/png" in str(cell.get("outputs")) for cell in notebook.cells)
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT / "workflow")):
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    found = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [output for outputs in found for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == shown == 3
    told = [output["text"] for outputs in found for output in outputs if output.get("name") == "stdout"]
    before, closed_form, trained = (ast.literal_eval(line) for line in "".join(told).splitlines()[:3])
    assert before == ["ship", "ship", "bird", "cat", "house", "guitar"]
    assert closed_form[3:] == trained[3:] == before[3:]
    assert not {"ship", "bird"} & {*closed_form[:3]}
    assert "ship" not in trained
    assert trained[2] == "bird"


def test_readmes_example_erases_what_the_model_knows(tmp_path: Path) -> None:
    """Its lines are run as they stand, the last one as a plan; its words and anchors are ones that the model draws."""
    (block,) = re.findall(r"<!-- erase commands -->\n```bash\n(.+?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    *lines, last = block.splitlines()
    assert len(lines) + 1 <= 6
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    subprocess.run(["bash", "-euc", "\n".join(lines)], check=True, cwd=tmp_path)
    program, *arguments = shlex.split(last)
    assert program == "snakemake"
    run = snakemake(tmp_path, "-n", *(str(tmp_path / word) if word.endswith(".yaml") else word for word in arguments))
    assert run.returncode == 0, run.stderr
    jobs = planned(run.stdout + run.stderr)
    assert (jobs["lora"], jobs["edit"], jobs["table"]) == (2, 1, 1)
    words = pd.read_csv(ROOT / "resources/emoji/objects.tsv", sep="\t").set_index("object")["synonyms"]
    rows = pd.read_csv(tmp_path / "config/concepts.tsv", sep="\t").set_index("concept").iloc[-2:]
    for concept, row in rows.iterrows():
        assert set(row["synonyms"].split("; ")) <= set(words[concept].split("; "))
        assert row["anchor"] in ("sky", "ground", "street", "water")
