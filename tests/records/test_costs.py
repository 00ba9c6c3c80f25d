"""What a run cost, against sums written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_traces import made

from lethe.__main__ import main
from lethe.records.costs import costs


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of six jobs: two concepts, one of them on two bases, and a table."""
    monkeypatch.chdir(tmp_path)

    def run(gpu: str | None, peak: int, started: int) -> dict:
        return {"gpu": gpu, "peak_mb": peak, "cpu_seconds": peak / 100, "started": str(started)}

    a, b = "NVIDIA H200", "NVIDIA A100"
    for base, slug, seconds, gpu in (("sd", "ship", 30, a), ("sd", "bird", 60, a), ("xl", "ship", 3600, b)):
        folder = f"results/{base}/concepts/{slug}"
        outputs = [f"{folder}/lora/w.safetensors", f"{folder}/lora/loss.csv"]
        made("lora", outputs, [], seconds=seconds, run=run(gpu, seconds, 1))
    made("images", ["results/sd/concepts/ship/images.zip"], [], seconds=8, run=run(None, 900, 1))
    made("images", ["results/sd/concepts/ship/anchor_images.zip"], [], seconds=4, run=run(None, 800, 1))
    made("lora", ["results/sd/edits/t/loras/cat/w.safetensors"], [], seconds=90, run=run(None, 1, 1))
    made("objects_table", ["results/tables/t.csv", "results/tables/t.json"], [], seconds=1, run=run(None, 100, 1))
    return tmp_path


def test_sums_by_step() -> None:
    found = costs(Path("results"))
    assert {step: (cost.jobs, cost.seconds, cost.cpu_seconds, cost.peak_mb) for step, cost in found.steps.items()} == {
        "lora": (4, 3780, pytest.approx(36.91), 3600),
        "images": (2, 12, pytest.approx(17.0), 900),
        "objects_table": (1, 1, pytest.approx(1.0), 100),
    }
    assert found.steps["lora"].gpu_seconds == {"NVIDIA H200": 90, "NVIDIA A100": 3600}
    assert (found.total.jobs, found.total.seconds, found.total.peak_mb) == (7, 3793, 3600)
    assert {key: cost.seconds for key, cost in found.concepts["lora"].items()} == {
        ("sd", "ship"): 30,
        ("sd", "bird"): 60,
        ("xl", "ship"): 3600,
        ("sd", "cat"): 90,
    }
    assert {key: cost.seconds for key, cost in found.concepts["images"].items()} == {("sd", "ship"): 12}
    assert "objects_table" not in found.concepts


def test_the_text_has_means_per_concept_and_gpu_hours(capsys: pytest.CaptureFixture) -> None:
    assert main(["costs"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["lora", "4", "3780.0", "36.9", "3600", "1.00", "NVIDIA", "A100,", "0.03", "NVIDIA", "H200"] in table
    assert ["images", "2", "12.0", "17.0", "900", "-"] in table
    assert ["images", "1", "12.0", "0.0"] in table
    assert ["lora", "4", "945.0", "922.5"] in table
    assert ["together", "957.0", "922.5"] in table


def test_without_records_it_says_so(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["costs", "nowhere"]) == 2
    assert "nowhere: there are no records" in capsys.readouterr().err
    Path("results/provenance/tables/t.csv.json").write_text("{")
    assert main(["costs", str(project / "results")]) == 2
    assert "t.csv.json: this is no record" in capsys.readouterr().err
