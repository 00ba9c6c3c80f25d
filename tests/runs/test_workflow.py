"""The Snakefile, run for real: messages, a whole run on a Stable-Diffusion-shaped base, what it leaves behind."""

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


def test_a_whole_run_on_a_stable_diffusion_base(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/objects.csv")
    assert list(table["method"]) == ["original", "mace"]
    assert list(table.columns[:7]) == ["method", "acc_e", "acc_g", "acc_s", "h_o", "clip_score", "fid"]
    assert (table["n_acc_e"] == 4).all()
    assert (table["n_acc_g"] == 4).all()
    assert (table["n_acc_s"] == 4).all()
    assert (table["n_fid"] == 20).all()
    with Image.open(finished / SHEETS / "ship.png") as picture:
        assert picture.width > 2 * 192
    assert not (finished / "pwned").exists()
    assert not list(finished.glob("**/pwned"))


def test_a_second_run_has_nothing_to_do(finished: Path, forked: dict[str, str]) -> None:
    again = snakemake(finished, "--cores", "2", environment=forked)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_record_names_base_protocols_and_versions(finished: Path) -> None:
    record = json.loads((finished / "results/tables/objects.json").read_text())
    (base,) = record["bases"]
    assert (base["cross_attention_dim"], base["window"]) == (32, 77)
    assert record["protocols"]["fid"].startswith("clip-frechet@1 by ")
    assert record["environment"]["diffusers"]
    assert record["commit"]


def test_a_table_is_put_beside_a_published_one(finished: Path, forked: dict[str, str], tmp_path: Path) -> None:
    """A key names it, and one job is new; what it makes is of the numbers that are there."""
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    numbers = pd.read_csv(folder / "results/tables/objects.numbers.csv").set_index(["method", "number"])
    named = {name: numbers.loc["mace", name]["protocol"] for name in ("acc_e", "h_o_class_probability")}
    said = {name: {"number": name, "protocol": protocol} for name, protocol in named.items()}
    said["fid"] = {"number": "fid", "protocol": "cleanfid-clean-fid@1 to val2014"}
    table = {"source": "somebody", "file": "p.csv", "rows": {"method": "method"}, "numbers": said}
    (folder / "set.yaml").write_text(yaml.safe_dump({"tables": {"first": table}}))
    (folder / "p.csv").write_text("method,acc_e,h_o_class_probability,fid\nMACE,5,90,12\nUCE,6,,13\n")
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    published = {"set": "set.yaml", "table": "first", "methods": {"mace": "MACE"}}
    path.write_text(yaml.safe_dump(config | {"tables": {"objects": {"tasks": ["objects"], "published": published}}}))
    run = snakemake(folder, "--cores", "1", "objects", environment=forked)
    assert run.returncode == 0, run.stderr
    assert planned(run.stdout + run.stderr) == {"beside_published": 1, "objects": 1}
    found = pd.read_csv(folder / "results/tables/paper/objects.csv").set_index(["method", "number"])
    for name, value in {"acc_e": 5, "h_o_class_probability": 90}.items():
        ours, line = numbers.loc["mace", name], found.loc["MACE", name]
        assert (line["published"], line["ours"], line["n"]) == (value, ours["value"], ours["n"])
        assert line["low_95"] <= line["ours"] <= line["high_95"]
    assert "two protocols, which never share a column" in found.loc["MACE", "fid"]["note"]
    assert found.loc["UCE"]["ours"].isna().all()
    for end in ("md", "tex"):
        assert "MACE" in (folder / f"results/tables/paper/objects.{end}").read_text()


def test_an_edit_can_be_stored_as_factors(
    finished: Path, sd_folder: Path, forked: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "project")
    edit = Path("results/sd/edits/objects/mace.safetensors")
    factored = ("--config", "methods={mace: {edit_form: factors}}", "--", str(edit))
    run = snakemake(tmp_path / "project", "--cores", "2", *factored, environment=forked)
    assert run.returncode == 0, run.stderr
    assert planned(run.stdout + run.stderr) == {"edit": 1}
    whole, factors = Edit.load(finished / edit), Edit.load(tmp_path / "project" / edit)
    assert isinstance(whole, WeightEdit)
    assert isinstance(factors, FactoredEdit)
    for record in (whole.record, factors.record):
        assert record["base"]["fingerprint"] == fingerprint(sd_folder)
        assert record["base"]["weights_sha256"] == weights_hash(sd_folder)
        assert (record["step"], record["method"], record["task"]) == ("edit", "mace", "objects")
        assert record["concepts"] == ["ship", '$(touch pwned)\'s "cat"']  # in the order of their slugs
        assert record["code"] == code_hash("lethe.steps.edit", "lethe.methods.mace")
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
    ones = ("table", "measure", "texts", "base", "sample", "edit", "prior")
    assert steps == {**dict.fromkeys(ones, 1), "moments": 2, "lora": 2, "masks": 2, "images": 2}
    read = {path for job in told.jobs for path in job.record["inputs"]}
    assert not any(re.search(r"/original/|/reference/|/objects/[0-9a-f]{12}", path) for path in read)
    assert any(re.search(r"/samples/objects/mace/synonyms/[0-9a-f]{12}\.zip$", path) for path in read)
    assert {"captions.csv", "config/concepts.tsv"} <= read  # the prior's texts, and the suite's synonyms
    text = list(lines(told))
    assert any(line.startswith("moments: 2 jobs, ") for line in text)
    assert sum("diffusers" in line for line in text) == 1
    whole = trace(Path("results/tables/objects.csv"))
    assert sum(job.record["step"] == "measure" for job in whole.jobs) == 9  # of all shards, and the reference
    assert {job.record["step"] for job in trace(Path("results/figures/objects.png")).jobs} >= {"examples", "sample"}


def test_the_trace_that_is_shown_prints_what_it_says(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    ((command, shown),) = re.findall(
        r"<!-- trace command -->\n```bash\n(.+?)\n```\n.+?```\n(.+?)\n```", page, re.DOTALL
    )
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
        **dict.fromkeys(("base", "prior", "texts", "edit"), 1),
        **dict.fromkeys(("losses", "mask_sheets", "table", "examples", "gallery"), 1),
        **dict.fromkeys(("images", "masks", "moments", "lora"), 2),
        "sample": 8,
        "measure": 9,
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


def test_what_could_not_be_measured_is_refused_before_anything_runs(
    project: Path, forked: dict[str, str], tmp_path: Path
) -> None:
    config = yaml.safe_load((project / "config" / "config.yaml").read_text())
    (tmp_path / "classes.tsv").write_text((project / "classes.tsv").read_text().replace("ship", "Ship"))
    config["evaluations"]["objects"]["classes"]["table"] = str(tmp_path / "classes.tsv")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(config))
    run = snakemake(project, "-n", "--cores", "1", "--configfile", str(wrong), environment=forked)
    assert run.returncode != 0
    assert "tasks.objects: 'ship' is erased, and " in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_table_named_as_a_rule_is_no_target_and_that_is_said(
    finished: Path, forked: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "prior.yaml").write_text("tables: {prior: {tasks: [objects]}}")
    given = [str(finished / "config/config.yaml"), str(tmp_path / "prior.yaml")]
    run = snakemake(finished, "-n", "--configfile", *given, environment=forked)
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert "tables.prior: prior is the name of a rule, so it is no target; name the table otherwise" in said


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
def test_a_wrong_configuration_is_refused_in_one_sentence(
    project: Path, forked: dict[str, str], change: dict, told: str
) -> None:
    config = yaml.safe_load((project / "config" / "config.yaml").read_text()) | change
    wrong = project / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(config))
    run = snakemake(project, "-n", "--cores", "1", "--configfile", str(wrong), environment=forked)
    assert run.returncode != 0
    assert told in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
