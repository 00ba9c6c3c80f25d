"""What a plan would take, against sums written out by hand."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest
from test_traces import made

from lethe.__main__ import main
from lethe.records.estimates import Planned, Seen, lines, planned_steps, seen
from plans import make_folder, plan_of, several, unusual

GPU = "NVIDIA H200"


def archive(path: str, images: int, size: int) -> None:
    """An archive of so many images of so many bytes, stored as they are, beside their rows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        opened.writestr("rows.csv", "row,type,prompt,evaluation_seed\n")
        for number in range(images):
            opened.writestr(f"{number:06d}.png", bytes(size))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of two sample jobs (8 images in 60 s on a GPU), one whose archive is gone, two LoRAs, a table."""
    monkeypatch.chdir(tmp_path)
    for number, (images, seconds) in enumerate(((6, 40), (2, 20), (9, 1000))):
        path = f"results/sd/samples/original/s/{number:012x}.zip"
        made("sample", [path], [], seconds=seconds, run={"gpu": GPU, "started": str(number)})
        archive(path, images, 1000)
    Path(path).unlink()
    for slug, seconds in (("ship", 30), ("bird", 50)):
        made(
            "lora",
            [f"results/sd/concepts/{slug}/l.safetensors", f"results/{slug}.csv"],
            [],
            seconds=seconds,
            run={"gpu": GPU},
        )
    made("table", ["results/tables/t.csv", "results/tables/t.json"], [], seconds=4)
    return tmp_path


def told(planned: dict[str, Planned], found: Seen, **more: float) -> tuple[dict[str, list[str]], list[str]]:
    """The cells of each step, and the sentences below."""
    table, below = "\n".join(lines(planned, found, Path("results"), **more)).split("\n\n")
    return {row.split()[0]: row.split()[1:] for row in table.splitlines()}, below.splitlines()


PLANNED = {"edit": Planned(1), "lora": Planned(90), "sample": Planned(300, 48000), "table": Planned(3)}


def test_records_give_seconds_by_image_or_by_job_and_the_share_on_gpus() -> None:
    found = seen(Path("results"))
    assert (found.images, found.bytes) == ({"sample": 8}, sum(p.stat().st_size for p in Path("results").rglob("*.zip")))
    assert found.seconds("sample", Planned(300, 48000)) == (360000, 360000)  # 60 s for 8 images
    assert found.seconds("lora", Planned(90)) == (3600, 3600)  # 40 s each
    assert found.seconds("table", Planned(3)) == (12, 0)
    assert found.seconds("edit", Planned(1)) is None
    cells, below = told(PLANNED, found)
    assert cells["sample"] == ["300", "48000", "100.00", "100.00"]
    assert cells["lora"] == ["90", "-", "1.00", "1.00"]
    assert cells["table"] == ["3", "-", "0.00", "0.00"]
    assert cells["edit"] == ["1", "-", "-", "-"]
    assert cells["total"] == ["394", "48000", "101.00"]
    each = found.bytes / 8 / 1e6
    assert below == [
        "Hours by the records of results.",
        "Not known, as the records of results have none: what edit would take.",
        f"Disk: {48000 * each / 1e3:.1f} GB of images, at {each:.3f} MB each, as in results.",
    ]


def test_a_rate_that_is_named_takes_the_place_of_records() -> None:
    cells, below = told(PLANNED, seen(Path("results")), images_per_second=2)
    assert cells["sample"] == ["300", "48000", "6.67", "6.67"]
    assert cells["total"] == ["394", "48000", "7.67"]
    assert below[:2] == [
        "Images by the rate that you named, 2 a second.",
        "Hours of other steps by the records of results.",
    ]


def test_a_rate_without_records_tells_of_images_alone(project: Path) -> None:
    found = seen(project / "nowhere")
    assert found == Seen()
    cells, below = told(PLANNED, found, images_per_second=0.5)
    assert (cells["sample"][2:], cells["total"]) == (["26.67", "26.67"], ["394", "48000", "26.67"])
    assert below == [
        "Images by the rate that you named, 0.5 a second.",
        "Not known, as results has no records: what edit, lora, table would take.",
        "Disk: images take at most 3 bytes a pixel, 37.7 GB at 512 x 512 pixels, 151.0 GB at 1024 x 1024 pixels.",
    ]


def test_without_either_it_says_what_to_name() -> None:
    cells, below = told(PLANNED, Seen())
    assert cells["total"] == ["394", "48000", "-"]
    assert below[0] == "Not known, as results has no records: what edit, lora, sample, table would take."
    assert below[1] == "Name --images-per-second, or the results folder of a run."


@pytest.mark.parametrize("configured", [unusual, several])
def test_a_plans_jobs_are_counted_by_the_step_that_runs_them(project: Path, configured) -> None:
    make_folder(project)
    plan = plan_of(configured())
    found = planned_steps(plan.jobs, plan.images_of)
    assert sum(step.jobs for step in found.values()) == len(plan.jobs)
    assert not {"task_lora", "anchor_images", "reference"} & found.keys()
    names = Counter(job.step.name for job in plan.jobs)
    assert found["lora"].jobs == names["lora"] + names["task_lora"]
    assert found["images"].images == plan.config["images"]["count"] * (names["images"] + names["anchor_images"])
    rows = 0
    for name, task in plan.config["tasks"].items():
        for suite, types in plan.sampled(name).items():
            of = plan.inputs.suites.get(suite)
            chosen = (
                plan.inputs.fetched[suite] if of is None else len(of) if types is None else of["type"].isin(types).sum()
            )
            rows += chosen * len(task["methods"])
    edits = [job for job in plan.jobs if job.step.name == "sample" and "/original/" not in job.outputs["shard"]]
    assert sum(map(plan.images_of, edits)) == rows


def test_the_command_plans_a_configuration(project: Path, capsys: pytest.CaptureFixture) -> None:
    make_folder(project)
    Path("config.yaml").write_text("bases: {emoji: {model: resources/emoji/pipeline}}\nconcepts: config/concepts.tsv\n")
    with Path("config.yaml").open("a") as file:
        file.write("tasks: {one: {base: emoji, concepts: [ship], methods: [uce], suites: [rows]}}\n")
        file.write("suites: {rows: {file: resources/reference.csv}}\nsampling: {shard_size: 10}\n")
    assert main(["costs", "--plan", "config.yaml", "--images-per-second", "0.01", "nowhere"]) == 0
    shown = capsys.readouterr().out
    assert "sample                  6       50     1.39       1.39" in shown.splitlines()
    assert main(["costs", "--plan", "config.yaml"]) == 0
    assert "Hours by the records of results." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plan", "none.yaml"], "none.yaml"),
        (["--plan", "odd.yaml"], "odd.yaml: this is no YAML"),
        (["--images-per-second", "2"], "--images-per-second is for a plan; name a configuration with --plan"),
        (["--plan", "odd.yaml", "--images-per-second", "0"], "--images-per-second must be a number above 0; got 0.0"),
        (["--plan", "odd.yaml", "--images-per-second", "nan"], "--images-per-second must be a number above 0; got nan"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    Path("odd.yaml").write_text("a: [")
    assert main(["costs", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
