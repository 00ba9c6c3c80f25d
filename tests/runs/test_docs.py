"""What the documents show in Python runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

from running import ROOT


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
    assert "['ship'" in str(found)
