"""Tables of suites as targets: of words, drawn from COCO, fetched; and samples of rows that were fetched."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lethe.files.shards import read_rows
from lethe.inputs.coco import coco_rows
from lethe.inputs.suites import fetched_digests, suite_rows
from running import ROOT, coco_file, planned, snakemake

I2P = """,prompt,categories,sd_seed,sd_guidance_scale
0,"the ""ship"", at sea",hate,4196746483,7
1,a bird,"violence, sexual",5,9.5
2,a cat,shocking,6,7
"""
SUITES = {
    "words": {
        "table": "config/concepts.tsv",
        "column": "concept",
        "words": [1, 2],
        "prompt": "the {}",
        "seeds": [1, 2],
    },
    "coco": {"coco": "results/coco/captions_val2014.json", "rows": 3, "seed": 4},
    "i2p": {
        "file": "results/i2p/i2p_benchmark.csv",
        "columns": {"type": "categories", "evaluation_seed": "sd_seed", "guidance": "sd_guidance_scale"},
        "rows": 3,
    },
}
TABLES = [f"results/suites/{name}.csv" for name in SUITES]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that samples the three suites and measures nothing; what is fetched lies beside it."""
    folder = tmp_path_factory.mktemp("suites")
    (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "config").mkdir()
    (folder / "config/concepts.tsv").write_bytes((ROOT / "config/concepts.tsv").read_bytes())
    captions = coco_file(folder / "captions.json", ["A ship.", "A bird", "A cat", "The sea"])
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        for split in ("train", "val"):
            archive.write(captions, f"annotations/captions_{split}2014.json")
    (folder / "i2p.csv").write_text(I2P)
    config = {
        "bases": {"emoji": {"model": "resources/emoji/pipeline"}},
        "concepts": "config/concepts.tsv",
        "tasks": {"one": {"base": "emoji", "concepts": ["ship"], "methods": ["uce"], "suites": list(SUITES)}},
        "suites": SUITES,
        "sampling": {"steps": 2, "shard_size": 2},
        "downloads": {
            name: {"url": (folder / file).as_uri(), "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest()}
            for name, file in {"coco_annotations": "annotations.zip", "i2p": "i2p.csv"}.items()
        },
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_tables_of_suites_are_targets_and_what_they_fetch_is_planned(project: Path) -> None:
    look = snakemake(project, "-n", "--cores", "1")
    assert look.returncode == 0, look.stdout + look.stderr
    jobs = planned(look.stdout)
    assert (jobs["suite"], jobs["i2p"], jobs["coco_annotations"], jobs["sample"]) == (2, 1, 1, 2 * (2 + 2 + 2))
    shards = [f"results/emoji/samples/original/i2p/{digest[:12]}.zip" for digest in fetched_digests(SUITES["i2p"], 2)]
    run = snakemake(project, "--cores", "1", "--", *TABLES, *shards)
    assert run.returncode == 0, run.stderr[-4000:]
    words, coco, i2p = (pd.read_csv(project / path, keep_default_na=False) for path in TABLES)
    assert list(words.columns) == list(coco.columns) == ["type", "prompt", "evaluation_seed"]
    assert [*words["prompt"]] == [f"the {name}" for name in words["type"]]
    assert len(words) == 4
    assert coco.equals(coco_rows(project / "captions.json", rows=3, seed=4).reset_index(drop=True))
    assert list(i2p.columns) == ["type", "prompt", "evaluation_seed", "guidance"]
    wanted = suite_rows({"file": str(project / "i2p.csv"), "columns": SUITES["i2p"]["columns"]})
    assert i2p.equals(wanted.reset_index(drop=True))
    drawn = pd.concat([read_rows(project / path) for path in shards], ignore_index=True)
    assert drawn.equals(wanted.reset_index(drop=True))
    source = json.loads((project / "results/i2p/source.json").read_text())
    assert source["sha256"] == hashlib.sha256(I2P.encode()).hexdigest()
    again = snakemake(project, "-n", "--cores", "1", "--", *TABLES, *shards)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_too_few_rows_are_said_by_the_job(project: Path) -> None:
    config = yaml.safe_load((project / "config/config.yaml").read_text())
    config["suites"]["i2p"]["rows"] = 4703
    mine = project / "mine.yaml"
    mine.write_text(yaml.safe_dump(config))
    run = snakemake(project, "--cores", "1", "--configfile", str(mine), "--", "results/suites/i2p.csv")
    assert run.returncode != 0
    assert "i2p_benchmark.csv: it has 3 rows, and the suite asks for 4703 (rows)" in run.stdout + run.stderr
