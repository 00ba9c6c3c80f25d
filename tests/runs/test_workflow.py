"""The Snakefile, run for real: plans, messages, a whole run on a Stable-Diffusion-shaped base, reruns."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from lethe.__main__ import main
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.weights import WeightEdit
from lethe.records.code import code_hash
from lethe.records.costs import costs
from lethe.records.fingerprints import fingerprint
from lethe.records.traces import lines, trace
from running import ROOT, planned, snakemake

SHEETS = "results/sd/edits/objects/masks"


@pytest.fixture(scope="module")
def masked(project: Path, forked: dict[str, str]) -> Path:
    """The project with masks and their contact sheets."""
    run = snakemake(project, "--cores", "1", SHEETS, environment=forked)
    assert run.returncode == 0, run.stderr
    with Image.open(project / SHEETS / "ship.png") as picture:
        assert picture.width > 2 * 192
    return project


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"clipseg": {"threshold": 0.4}}, {"masks": 1, "mask_sheets": 1}),
        ({"prompts": {"object": "a {}"}}, {"masks": 1, "mask_sheets": 1}),
        ({"prompts": {"person": "a {}"}, "grounded-sam": {"box_threshold": 0.4}}, {}),
    ],
)
def test_masks_are_found_again_where_a_setting_of_theirs_changes(masked: Path, change: dict, again: dict) -> None:
    config = yaml.safe_load((masked / "config" / "config.yaml").read_text())
    for section, values in change.items():
        config["masks"][section] |= values
    changed = masked / "masks.yaml"
    changed.write_text(yaml.safe_dump(config))
    run = snakemake(masked, "-n", "--cores", "1", "--configfile", str(changed), "--", SHEETS)
    assert run.returncode == 0, run.stdout + run.stderr
    assert planned(run.stdout) == again


def test_a_style_has_full_frames_whatever_the_segmenter(project: Path, tmp_path: Path) -> None:
    table = tmp_path / "concepts.tsv"
    table.write_text((project / "config" / "concepts.tsv").read_text() + "Van Gogh\tstyle\tart\t\n")
    target = "results/sd/concepts/van-gogh/masks.zip"
    run = snakemake(project, "-n", "-p", "--cores", "1", "--config", f"concepts={table}", "--", target)
    assert run.returncode == 0, run.stdout + run.stderr
    (command,) = [line for line in run.stdout.splitlines() if "lethe.steps.masks" in line]
    assert '"masks":{"segmenter":"full-frame"}' in command


def test_a_whole_run_on_a_stable_diffusion_base(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/objects.csv")
    assert list(table["method"]) == ["original", "mace"]
    assert list(table.columns[:7]) == ["method", "acc_e", "acc_g", "acc_s", "h_o", "clip_score", "fid"]
    assert (table["n_acc_e"] == 4).all()
    assert (table["n_acc_g"] == 4).all()
    assert (table["n_acc_s"] == 4).all()
    assert (table["n_fid"] == 20).all()
    assert not (finished / "pwned").exists()
    assert not list(finished.glob("**/pwned"))


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    again = snakemake(finished, "--cores", "2")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_record_names_base_protocols_and_versions(finished: Path) -> None:
    record = json.loads((finished / "results/tables/objects.json").read_text())
    assert record["base"]["cross_attention_dim"] == 32
    assert record["base"]["window"] == 77
    assert "not an Inception FID" in record["protocols"]["fid"]
    assert record["environment"]["diffusers"]
    assert record["commit"]


def test_adding_a_suite_seed_samples_only_that_suite(finished: Path) -> None:
    config = yaml.safe_load((finished / "config" / "config.yaml").read_text())
    config["suites"]["synonyms"]["seeds"] = [1, 3]
    changed = finished / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    jobs = planned(snakemake(finished, "-n", "--cores", "2", "--configfile", str(changed)).stdout)
    assert jobs["sample"] == jobs["clip"] == 2
    assert "mace" not in jobs


def test_more_rows_sample_the_shards_that_grow(finished: Path) -> None:
    reference = finished / "reference.csv"
    before = reference.read_text()
    try:
        reference.write_text(before + "ship,a photo of one more ship,7\n")  # rows 0-11 fill a shard, the second grows
        jobs = planned(snakemake(finished, "-n", "--cores", "2").stdout)
    finally:
        reference.write_text(before)
    assert jobs["sample"] == jobs["clip"] == 2
    assert "mace" not in jobs


def test_a_lost_shard_does_not_hide_a_changed_setting(finished: Path) -> None:
    shard = finished / "results/sd/samples/original/synonyms/0000.zip"
    config = yaml.safe_load((finished / "config" / "config.yaml").read_text())
    config["sampling"]["guidance"] = 5.0
    changed = finished / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    hidden = shard.rename(shard.with_suffix(".away"))  # as when a job fails: Snakemake takes its output away
    try:
        jobs = planned(snakemake(finished, "-n", "--cores", "2", "--configfile", str(changed)).stdout)
    finally:
        hidden.rename(shard)
    assert jobs["sample"] == jobs["clip"] == 8


def test_a_new_synonym_samples_only_the_suite_that_holds_it(finished: Path) -> None:
    table = finished / "config" / "concepts.tsv"
    before = table.read_text()
    try:
        table.write_text(before.replace("vessel", "vessel; boat"))
        jobs = planned(snakemake(finished, "-n", "--cores", "2").stdout)
    finally:
        table.write_text(before)
    assert jobs["sample"] == 2
    assert "lora" not in jobs
    assert "mace" not in jobs


def test_loras_can_be_trained_on_the_base_refined_for_the_whole_task(finished: Path) -> None:
    jobs = planned(snakemake(finished, "-n", "--cores", "2", "--config", 'mace={"lora_base": "task"}').stdout)
    assert jobs["task_lora"] == 2
    assert jobs["mace"] == 1
    assert "lora" not in jobs
    assert "moments" not in jobs


def test_preserving_the_anchor_samples_its_images_and_trains_again(finished: Path) -> None:
    config = yaml.safe_load((finished / "config" / "config.yaml").read_text())
    config["mace"]["lora"]["preservation_weight"] = 0.5
    changed = finished / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    jobs = planned(snakemake(finished, "-n", "--cores", "2", "--configfile", str(changed)).stdout)
    assert jobs["anchor_images"] == jobs["lora"] == 2
    assert "images" not in jobs
    assert "masks" not in jobs


def test_the_scale_of_the_fusion_plans_the_join_and_trains_nothing(finished: Path) -> None:
    config = yaml.safe_load((finished / "config" / "config.yaml").read_text())
    config["mace"]["fuse_preserve_scale"] = 0.5
    changed = finished / "changed.yaml"
    changed.write_text(yaml.safe_dump(config))
    jobs = planned(snakemake(finished, "-n", "--cores", "2", "--configfile", str(changed)).stdout)
    assert jobs["mace"] == 1
    assert not {"lora", "prior", "moments"} & set(jobs)


def test_an_edit_can_be_stored_as_factors(
    finished: Path, sd_folder: Path, forked: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "project")
    edit = Path("results/sd/edits/objects/mace.safetensors")
    factored = ("--config", 'mace={"edit_form": "factors"}', "--", str(edit))
    run = snakemake(tmp_path / "project", "--cores", "2", *factored, environment=forked)
    assert run.returncode == 0, run.stderr
    assert planned(run.stdout + run.stderr) == {"mace": 1}
    whole, factors = Edit.load(finished / edit), Edit.load(tmp_path / "project" / edit)
    assert isinstance(whole, WeightEdit)
    assert isinstance(factors, FactoredEdit)
    for record in (whole.record, factors.record):
        assert record["base"]["fingerprint"] == fingerprint(sd_folder)
        assert record["base"]["weights_sha256"] == weights_hash(sd_folder)
        assert (record["step"], record["task"]) == ("mace", "objects")
        assert record["concepts"] == ["ship", '$(touch pwned)\'s "cat"']  # in the order of their slugs
        assert record["code"] == code_hash("lethe.steps.mace")
        assert "commit" not in str(record)
    assert list(factors.rows) == factors.record["concepts"]
    base = {f"{name}.weight": weight for name, weight in projection_weights(str(sd_folder), None).items()}
    for name, weight in factors.edited(base).items():
        assert (weight - whole.weights[name]).abs().max() <= 1e-6 * weight.abs().max()


def test_every_output_of_a_step_has_a_record(finished: Path, capsys: pytest.CaptureFixture) -> None:
    results = finished / "results"
    files = {str(path.relative_to(results)) for path in results.glob("**/*") if path.is_file()}
    records = {name.removeprefix("provenance/") for name in files if name.startswith("provenance/")}
    made = {f"{re.sub('/masks/.+', '/masks', name)}.json" for name in files if not name.startswith("provenance/")}
    assert records == made
    before = {path: path.stat().st_mtime_ns for path in finished.glob("**/*")}
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == f"{len(records)} files as recorded, 0 damaged, 0 missing\n"
    assert {path: path.stat().st_mtime_ns for path in finished.glob("**/*")} == before


def test_a_number_can_be_traced_to_its_sources(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    told = trace(Path("results/tables/objects.csv"), "mace", "acc_g")
    assert told.warnings == []
    (cell,) = told.cells
    table = pd.read_csv("results/tables/objects.csv").set_index("method")
    assert float(cell["value"]) == table.loc["mace", "acc_g"]
    assert cell["n"] == "4"
    assert cell["interval_95"][0] <= float(cell["value"]) <= cell["interval_95"][1]
    assert "clip-top1@1" in cell["protocol"]
    steps = Counter(job.record["step"] for job in told.jobs)
    ones = ("objects_table", "clip", "clip_classes", "base", "sample", "mace", "prior")
    assert steps == {**dict.fromkeys(ones, 1), "moments": 2, "lora": 2, "masks": 2, "images": 2}
    read = {path for job in told.jobs for path in job.record["inputs"]}
    assert not any("/original/" in path or "/reference/" in path or "/objects/0000" in path for path in read)
    assert {"captions.csv", "config/concepts.tsv"} <= read  # the prior's texts, and the suite's synonyms
    text = list(lines(told))
    assert any(line.startswith("moments: 2 jobs, ") for line in text)
    assert sum("diffusers" in line for line in text) == 1
    whole = trace(Path("results/tables/objects.csv"))
    assert sum(job.record["step"] == "clip" for job in whole.jobs) == 9  # of all shards, and the reference
    assert {job.record["step"] for job in trace(Path("results/figures/objects.png")).jobs} >= {"examples", "sample"}


def test_readmes_trace_prints_what_it_says(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    readme = (ROOT / "README.md").read_text()
    command, shown = re.findall(r"<!-- trace command -->\n```bash\n(.+?)\n```\n.+?```\n(.+?)\n```", readme, re.DOTALL)[
        0
    ]
    program, *arguments = shlex.split(command)
    monkeypatch.chdir(finished)
    assert program == "lethe"
    assert main(arguments) == 0
    out = capsys.readouterr().out
    number = r"[\d.]+"
    first = (
        rf"results/tables/objects\.csv, row mace, column acc_e: {number}, n = \d+, 95 % interval {number} to {number}"
    )
    head = rf"(?m)^(\w+): \d+ jobs?, {number} s, .+, from \d{{4}}-\d\d-\d\dT"
    for text in (shown, out):
        assert re.match(first, text)
    steps = re.findall(head, shown)
    assert steps
    assert steps == [step for step in dict.fromkeys(re.findall(head, out)) if step in steps]


def test_costs_count_every_job_once(finished: Path) -> None:
    found = costs(finished / "results")
    assert {step: cost.jobs for step, cost in found.steps.items()} == {
        **dict.fromkeys(("base", "prior", "clip_classes", "mace"), 1),
        **dict.fromkeys(("losses", "mask_sheets", "objects_table", "examples"), 1),
        **dict.fromkeys(("images", "masks", "moments", "lora"), 2),
        "sample": 8,
        "clip": 9,
    }
    assert len(found.concepts["lora"]) == 2
    assert all(cost.cpu_seconds > 0 and cost.seconds > 0 for cost in found.steps.values())


def test_a_damaged_file_is_found_set_aside_and_made_anew(
    finished: Path, forked: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    masks = folder / "results/sd/concepts/ship/masks.zip"
    whole = masks.read_bytes()
    masks.write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(folder / SHEETS)
    run = snakemake(folder, "--cores", "1", SHEETS, environment=forked)
    assert run.returncode != 0
    log = (folder / "logs/mask_sheets/sd/objects.log").read_text()
    (told,) = log.splitlines()
    assert told in run.stdout + run.stderr
    assert "mask_sheets: results/sd/concepts/ship/masks.zip: its content is not what was recorded" in told
    assert masks.with_name("masks.zip.damaged").read_bytes() == whole[: len(whole) // 2]
    assert not masks.exists()
    again = snakemake(folder, "--cores", "1", SHEETS, environment=forked)
    assert again.returncode == 0, again.stderr
    assert planned(again.stdout + again.stderr) == {"masks": 1, "mask_sheets": 1}
    assert masks.read_bytes() == whole
    assert (folder / SHEETS / "ship.png").read_bytes() == (finished / SHEETS / "ship.png").read_bytes()


def test_what_could_not_be_measured_is_refused_before_anything_runs(project: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((project / "config" / "config.yaml").read_text())
    (tmp_path / "classes.tsv").write_text((project / "classes.tsv").read_text().replace("ship", "Ship"))
    config["evaluations"]["objects"]["classes"]["table"] = str(tmp_path / "classes.tsv")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(config))
    run = snakemake(project, "-n", "--cores", "1", "--configfile", str(wrong))
    assert run.returncode != 0
    assert "tasks.objects: 'ship' is erased, and " in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_picture_can_be_left_out_and_needs_scores_only_for_many_concepts(project: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((project / "config" / "config.yaml").read_text())
    mine, work = tmp_path / "mine.yaml", shutil.copytree(project, tmp_path / "work")
    shutil.rmtree(work / "results", ignore_errors=True)
    names = [f"thing {k}" for k in range(30)]
    (work / "config" / "concepts.tsv").write_text(
        "concept\tkind\tanchor\tsynonyms\n" + "".join(f"{name}\tobject\tsky\tx {name}\n" for name in names)
    )
    (work / "classes.tsv").write_text("\n".join(["object", *names, "dog", ""]))
    figure = "results/figures/objects.png"
    for erased, tables in ((names[:3], 0), (names, 1)):
        config["tasks"]["objects"]["concepts"] = erased
        mine.write_text(yaml.safe_dump(config))
        run = snakemake(work, "-n", "--cores", "1", "--configfile", str(mine), "--", figure)
        assert planned(run.stdout).get("objects_table", 0) == tables, run.stdout + run.stderr
        assert planned(run.stdout)["examples"] == 1
    config["figures"]["examples"] = None
    mine.write_text(yaml.safe_dump(config))
    jobs = planned(snakemake(work, "-n", "--cores", "1", "--configfile", str(mine)).stdout)
    assert "examples" not in jobs
    assert jobs["objects_table"] == 1


def test_remarks_are_told_once_and_not_by_each_job(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    target = "results/sd/concepts/ship/moments.safetensors"
    (folder / target).unlink()
    run = snakemake(folder, "--cores", "1", "--rerun-triggers", "mtime", "--", target)
    assert run.returncode == 0, run.stderr
    assert (folder / target).exists()
    remark = "tasks.objects: evaluations.objects.reference_images come from resources/emoji, which knows its own world"
    assert (run.stdout + run.stderr).count(remark) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tsks": {}}, "tsks is not a known key"),
        ({"seed": "many"}, "seed"),
        ({"concepts": "config/other.tsv"}, "config/other.tsv"),
        ({"bases": {"sd": {"model": "./nowhere", "revision": None}}}, "/nowhere"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_sentence(project: Path, change: dict, told: str) -> None:
    config = yaml.safe_load((project / "config" / "config.yaml").read_text()) | change
    wrong = project / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(config))
    run = snakemake(project, "-n", "--cores", "1", "--configfile", str(wrong))
    assert run.returncode != 0
    assert told in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
