"""The default run on the embedded model, of fewer images: what it reaches, here and on SLURM, to the same byte."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image
from selenium.webdriver.common.by import By

from browsers import chromium
from clusters import submitted
from running import ROOT, contents, snakemake

FEWER = {
    "erased": {"seeds": [1, 6]},
    "objects": {"seeds": [1, 1]},
    "synonyms": {"seeds": [1, 2]},
    "reference": {"rows": 130},
}


def in_default_folder(folder: Path) -> Path:
    """The folder, with what a run reads."""
    for name in ("config", "resources"):
        (folder / name).symlink_to(ROOT / name)
    suites = yaml.safe_load((ROOT / "config/config.yaml").read_text())["suites"]
    suites = {name: suite | FEWER[name] for name, suite in suites.items()}
    (folder / "fewer.yaml").write_text(yaml.safe_dump({"suites": suites}))
    return folder


def of_fewer(folder: Path) -> tuple[str, ...]:
    """The arguments that take the shipped configuration, but for the number of images."""
    return ("--configfile", str(folder / "config/config.yaml"), str(folder / "fewer.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, forked: dict[str, str]) -> Path:
    """A folder in which the default run has ended; its steps are forks."""
    folder = in_default_folder(tmp_path_factory.mktemp("default"))
    run = snakemake(folder, "--cores", "2", *of_fewer(folder), environment=forked)
    assert run.returncode == 0, run.stderr[-4000:]
    return folder


def test_three_objects_are_erased_and_the_others_stay(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/objects.csv").set_index("method")
    original, edited = table.loc["original"], table.loc["mace"]
    assert original["acc_e"] >= 80  # the base does draw what is erased
    assert edited["acc_e"] <= 10
    assert edited["acc_g"] <= 15
    assert edited["acc_s"] >= 0.9 * original["acc_s"]
    assert edited["h_o"] >= 90
    assert (table[["n_acc_e", "n_acc_g", "n_acc_s"]] >= 18).all(axis=None)


def test_the_picture_shows_before_and_after(finished: Path) -> None:
    with Image.open(finished / "results/figures/objects.png") as picture:
        assert picture.width > picture.height > 300


def test_the_gallery_shows_what_the_tables_say(finished: Path, tmp_path: Path) -> None:
    page = finished / "results/galleries/objects.html"
    assert page.stat().st_size < 20_000_000
    by_concept = pd.read_csv(finished / "results/tables/objects_by_concept.csv")
    images = pd.read_csv(finished / "results/tables/objects.images.csv")
    failed = by_concept[by_concept["method"] == "mace"]["failed"].sum()
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{page.as_uri()}#verdict=fail")
        rows = browser.find_elements(By.CSS_SELECTOR, "#rows > li")
        assert len(rows) == len(images[images["method"] == "original"])
        assert sum(row.is_displayed() for row in rows) == failed
        table = pd.read_csv(finished / "results/tables/objects.csv").set_index("method")
        cell = browser.find_element(By.CSS_SELECTOR, "#numbers tr[data-number=acc_s] td[data-method=mace] .value")
        assert float(cell.text) == pytest.approx(table.loc["mace", "acc_s"], abs=0.06)


def test_the_report_holds_every_result(finished: Path) -> None:
    run = snakemake(finished, "--cores", "1", "--report", "report.html", *of_fewer(finished))
    assert run.returncode == 0, run.stderr[-4000:]
    added = re.findall(r"Adding (\S+) \(", run.stdout + run.stderr)
    tables = ["objects.csv", "objects_by_concept.csv", "objects.images.csv", "objects.numbers.csv"]
    shown = ["objects.png", "objects.html", "objects.edits.csv", "losses.png"]
    assert sorted(added) == sorted([*tables, *shown, "automobile.png", "bird.png", "ship.png"])
    report = (finished / "report.html").read_text(encoding="utf-8")
    n = pd.read_csv(finished / "results/tables/objects.csv")["n_acc_e"].iloc[0]
    assert f"acc_e (n = {n})" in report
    assert "n = 8 images on a sheet" in report


def test_slurm_gives_the_same_bytes(finished: Path, slurm: dict[str, str], tmp_path: Path) -> None:
    """Jobs of every rule of the default run; what they would do twice, for the base or a third concept, is copied."""
    folder, rules = in_default_folder(tmp_path), {path.name for path in (finished / "logs").iterdir()}
    for name in ("samples/original", "measures/original", "concepts/ship"):
        for part in (f"results/emoji/{name}", f"results/provenance/emoji/{name}"):
            shutil.copytree(finished / part, folder / part)
    before = len(submitted(slurm))
    quickly = ("--slurm-init-seconds-before-status-checks", "3")
    run = snakemake(folder, "--cores", "8", "--profile", "slurm", *quickly, *of_fewer(folder), environment=slurm)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in (folder / "logs").iterdir()} - {"slurm"} == rules
    here, there = contents(finished), contents(folder)
    assert {"tables/objects.csv", "figures/objects.png", "emoji/edits/objects/mace.safetensors"} <= here.keys()
    assert {name for name in here | there if here.get(name) != there.get(name)} == set()
    jobs = submitted(slurm)[before:]
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    (concepts,) = [job for job in jobs if "lora" in job["StdOut"]]
    assert concepts["TresPerJob"].endswith("gpu:1")  # two chains, one submission, one GPU


def test_a_rerun_of_an_edit_and_its_samples_gives_the_same_bytes(finished: Path) -> None:
    """In processes of their own, which import what a fork has already."""
    lost = [finished / "results/emoji/edits/objects/mace.safetensors"]
    lost += (finished / "results/emoji/samples/objects/mace/synonyms").glob("*.zip")
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in lost]
    for path in lost:
        path.unlink()
    targets = [str(path.relative_to(finished)) for path in lost]
    run = snakemake(finished, "--cores", "2", "--rerun-triggers", "mtime", *of_fewer(finished), "--", *targets)
    assert run.returncode == 0, run.stderr[-4000:]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in lost] == before
