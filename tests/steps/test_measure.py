"""The step of measures: files that settings name reach the measure as paths."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import CPU
from lethe.steps.measure import run


def test_a_file_of_the_settings_is_told_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    module = ModuleType("lethe.measures.dummy")
    module.load = lambda settings, device: told.update(settings) or 7
    module.measure = lambda model, images, rows: {"seen": [int(image.max()) * model for image in images]}
    monkeypatch.setitem(sys.modules, "lethe.measures.dummy", module)
    (tmp_path / "real").mkdir()
    for name, value in {"b.png": 3, "a.png": 2}.items():
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / "real" / name)
    settings = SimpleNamespace(
        kind="dummy", name="d", measure={"weights": "ab12", "share": 0.5}, files={"weights": "w.pt"}, reference="real-1"
    )
    reads, out = {"images": [tmp_path / "real"]}, {"measure": tmp_path / "m.parquet"}
    job = SimpleNamespace(settings=settings, reads=reads, read=lambda name: reads[name][0], out=out, device=CPU)
    run(job)
    assert told == {"weights": "w.pt", "share": 0.5}
    found = pd.read_parquet(out["measure"])
    assert list(found["name"]) == ["a.png", "b.png"]
    assert list(found["seen"]) == [14, 21]
    assert set(found["reference"]) == {"real-1"}
    assert set(found["measure"]) == {"d"}
