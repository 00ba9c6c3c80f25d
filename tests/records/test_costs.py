"""What a run cost, against sums written out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_traces import made

from lethe.__main__ import main
from lethe.records.costs import costs
from lethe.steps.costs import run


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of six jobs: two concepts, one of them on two bases, and a table."""
    monkeypatch.chdir(tmp_path)

    def took(gpu: str | None, peak: int, started: int) -> dict:
        return {"gpu": gpu, "peak_mb": peak, "cpu_seconds": peak / 100, "started": str(started)}

    a, b = "NVIDIA H200", "NVIDIA A100"
    for base, slug, seconds, gpu in (("sd", "ship", 30, a), ("sd", "bird", 60, a), ("xl", "ship", 3600, b)):
        folder = f"results/{base}/concepts/{slug}"
        outputs = [f"{folder}/lora/w.safetensors", f"{folder}/lora/loss.csv"]
        made("lora", outputs, [], seconds=seconds, run=took(gpu, seconds, 1))
    made("images", ["results/sd/concepts/ship/images.zip"], [], seconds=8, run=took(None, 900, 1))
    made("images", ["results/sd/concepts/ship/anchor_images.zip"], [], seconds=4, run=took(None, 800, 1))
    made("lora", ["results/sd/edits/t/loras/cat/w.safetensors"], [], seconds=90, run=took(None, 1, 1))
    made("objects_table", ["results/tables/t.csv", "results/tables/t.json"], [], seconds=1, run=took(None, 100, 1))
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


# Beside a table

EDITS = [Path(f"results/sd/edits/{name}.safetensors") for name in ("two/mace", "one/uce")]


@pytest.fixture
def behind() -> list[list[str]]:
    """Records of two LoRAs and two edits, of which one is on a GPU; a job with two outputs has two records."""

    def record(step: str, outputs: list[str], seconds: float, peak: int, gpu: str | None = None) -> str:
        took = {"gpu": gpu, "peak_mb": peak, "cpu_seconds": 2 * seconds, "started": "1"}
        made(step, outputs, [], seconds=seconds, run=took)
        return outputs[0]

    loras = [
        record("lora", [f"results/sd/concepts/{slug}/loras/x/w.safetensors", f"results/{slug}.csv"], seconds, 500, "H")
        for slug, seconds in (("ship", 30), ("bird", 50.25))
    ]
    edits = [record("edit", [str(path)], seconds, 700) for path, seconds in zip(EDITS, (4, 6), strict=True)]
    for path, size in zip(EDITS, (2_500_000, 1000), strict=True):
        path.write_bytes(bytes(size))
    return [[*loras, edits[0]], [edits[1]]]


def test_each_edit_has_the_sum_of_the_jobs_behind_it(behind: list[list[str]]) -> None:
    settings = SimpleNamespace(edits=[["two", "mace", 2], ["one", "uce", 1]], behind=behind)
    run(SimpleNamespace(settings=settings, reads={"edits": EDITS}, out={"costs": Path("costs.csv")}))
    rows = pd.read_csv("costs.csv", keep_default_na=False).to_dict("records")
    assert rows[0] == {
        "edit": "two/mace",
        "concepts": 2,
        "edit_mb": 2.5,
        "jobs": 3,
        "seconds": 84.2,
        "seconds_a_concept": 42.1,
        "seconds_of_edit": 4.0,
        "cpu_seconds": 168.5,
        "peak_mb": 700,
        "gpu": "H",
    }
    assert [rows[1][key] for key in ("seconds", "seconds_a_concept", "jobs", "edit_mb", "gpu")] == [6, 6, 1, 0.001, ""]


def test_of_an_edit_without_all_records_nothing_is_told(behind: list[list[str]]) -> None:
    for path in behind[0][:2]:
        Path("results/provenance", path.removeprefix("results/") + ".json").unlink()
    settings, said = SimpleNamespace(edits=[["two", "mace", 2], ["one", "uce", 1]], behind=behind), []
    run(
        SimpleNamespace(
            settings=settings, reads={"edits": EDITS}, out={"costs": Path("c")}, note=lambda *s: said.append(s)
        )
    )
    two, one = pd.read_csv("c").to_dict("records")
    assert pd.isna([two[key] for key in two if key not in ("edit", "concepts", "edit_mb")]).all()
    assert one["seconds"] == 6
    assert said == [(1, f"what two/mace took is not known: {behind[0][0]} has no record, nor have 1 more")]
