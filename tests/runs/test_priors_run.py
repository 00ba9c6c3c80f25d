"""The rules of priors, run for real: a killed prior, COCO from a local host, what shares a prior and what reruns it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from lethe.erasure.moments import PART, load_moment
from lethe.records.fingerprints import text_fingerprint
from running import ROOT, coco_file, planned, served, snakemake, step_command

# A prior that is killed


def prior_step(folder: Path, sd_folder: Path, out: Path, *, threads: int = 1) -> subprocess.Popen:
    """Start the step on the texts in `folder`."""
    text = {"model": str(sd_folder), "revision": None, "variant": None, "fingerprint": text_fingerprint(sd_folder)}
    settings = {
        "prior": {"file": str(folder / "texts.txt")},
        "text": text,
        "precision": "float32",
    }
    command = step_command("prior", settings, {"sources": folder / "texts.txt"}, {"prior": out}, threads=threads)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "LETHE_DEVICE": "cpu"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_prior_killed_in_the_middle_goes_on_to_the_same_bytes(tmp_path: Path, sd_folder: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"a photo of ship {k}\n" for k in range(PART + 1000)))
    whole, out = tmp_path / "whole.safetensors", tmp_path / "prior.safetensors"
    parts = tmp_path / "prior.safetensors.parts"
    uninterrupted = prior_step(tmp_path, sd_folder, whole)
    uninterrupted.communicate()
    assert uninterrupted.returncode == 0
    killed = prior_step(tmp_path, sd_folder, out)
    while killed.poll() is None and not list(parts.glob("0*.safetensors")):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(parts.glob("0*.safetensors"))) == 1
    resumed = prior_step(tmp_path, sd_folder, out)
    _, log = resumed.communicate()
    assert resumed.returncode == 0, log
    assert "in 2 parts, 0 of them found" not in log
    assert f"{PART + 1000} of {PART + 1000} texts" in log
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    assert not list(tmp_path.glob("*.parts"))
    assert load_moment(out).tokens == 77 * (PART + 1000)


# The rules

CAPTIONS = ["A ship at sea.", "A bird", "A ship at sea."]


def archive_of(folder: Path) -> bytes:
    """A zip with the two caption files of COCO 2014 and something else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("annotations/instances_val2014.json", "{}")
        archive.write(coco_file(folder / "train.json", CAPTIONS), "annotations/captions_train2014.json")
        archive.write(coco_file(folder / "val.json", ["A cat"]), "annotations/captions_val2014.json")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return archive_of(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def host(archive: bytes) -> Iterator[str]:
    """A host that plays COCO's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as url:
        yield url


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, host: str, archive: bytes) -> Path:
    """The default configuration with three bases: emoji, one with another U-Net, one with another text encoder."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "resources").symlink_to(ROOT / "resources")
    shutil.copytree(ROOT / "config", folder / "config")
    for name, file in {"finetuned": "unet/config.json", "retold": "text_encoder/config.json"}.items():
        shutil.copytree(ROOT / "resources/emoji/pipeline", folder / name)
        (folder / name / file).write_text((folder / name / file).read_text() + "\n")
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    task = config["tasks"]["objects"]
    for name in ("finetuned", "retold"):
        config["bases"][name] = {"model": name, "revision": None}
        config["tasks"][name] = task | {"base": name}
    config["priors"] |= {
        "coco": {"coco": ["results/coco/captions_train2014.json", "results/coco/captions_val2014.json"]},
        "names": {"file": "names.txt", "templates": ["a photo of {}", "{} at sea"]},
    }
    config["methods"]["mace"] |= {"prior": "coco", "domain_prior": "names", "preserve_weight": 2.0}
    sha256 = hashlib.sha256(archive).hexdigest()
    config["downloads"] = {"coco_annotations": {"url": f"{host}/annotations.zip", "sha256": sha256}}
    (folder / "names.txt").write_text("Ada\nÉmile Zola\n", encoding="utf-8")
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    return folder


def prior_of(project: Path, name: str, base: str = "resources/emoji/pipeline") -> Path:
    return project / "results/priors" / text_fingerprint(project / base) / f"{name}.safetensors"


@pytest.fixture(scope="module")
def finished(project: Path, forked: dict[str, str]) -> Path:
    """The project with both priors of the first base."""
    targets = [str(prior_of(project, name).relative_to(project)) for name in ("coco", "names")]
    run = snakemake(project, "--cores", "2", *targets, environment=forked)
    assert run.returncode == 0, run.stderr[-4000:]
    return project


def test_coco_is_fetched_checked_and_encoded(finished: Path, archive: bytes) -> None:
    assert sorted(path.name for path in (finished / "results/coco").iterdir()) == [
        "captions_train2014.json",
        "captions_val2014.json",
        "source.json",
    ]
    text = json.loads((ROOT / "resources/emoji/pipeline/text_encoder/config.json").read_text())
    window = text["max_position_embeddings"]
    source = json.loads((finished / "results/coco/source.json").read_text())
    assert source["sha256"] == hashlib.sha256(archive).hexdigest()
    with safe_open(prior_of(finished, "coco"), "pt") as file:
        record = json.loads(file.metadata()["lethe"])
        assert file.get_tensor("moment").dtype.itemsize == 8
    assert (record["texts"], record["distinct_texts"], record["tokens"]) == (4, 3, 4 * window)
    assert record["inputs"]["sources"] == [
        hashlib.sha256((finished / "results/coco" / f"captions_{split}2014.json").read_bytes()).hexdigest()
        for split in ("train", "val")
    ]
    assert load_moment(prior_of(finished, "names")).tokens == 4 * window
    assert not list((finished / "results/priors").glob("*/*.parts"))


EDITS = {"emoji": "objects", "finetuned": "finetuned", "retold": "retold"}


def edits_plan(project: Path, forked: dict[str, str], *arguments: str) -> dict[str, int]:
    edits = [f"results/{base}/edits/{task}/mace.safetensors" for base, task in EDITS.items()]
    run = snakemake(project, "-n", "--cores", "1", *arguments, "--", *edits, environment=forked)
    assert run.returncode == 0, run.stdout + run.stderr
    return planned(run.stdout)


def test_bases_with_the_same_text_encoder_share_priors(finished: Path, forked: dict[str, str]) -> None:
    jobs = edits_plan(finished, forked)
    assert jobs["edit"] == 3
    assert jobs["prior"] == 2  # both priors of the base with another text encoder
    assert jobs["moments"] == 9


@pytest.mark.parametrize(("sha256", "kept"), [("0" * 64, False), (None, True)])
def test_another_archive_is_refused_and_an_unknown_one_recorded(
    project: Path, host: str, archive: bytes, tmp_path: Path, sha256: str | None, kept: bool
) -> None:
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    (tmp_path / "config").symlink_to(ROOT / "config")
    for name in ("names.txt", "finetuned", "retold"):
        (tmp_path / name).symlink_to(project / name)
    config = yaml.safe_load((project / "config/config.yaml").read_text())
    config["downloads"]["coco_annotations"]["sha256"] = sha256
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(config))
    run = snakemake(tmp_path, "--cores", "1", "--configfile", str(mine), "--", "results/coco/captions_val2014.json")
    found = hashlib.sha256(archive).hexdigest()
    assert (run.returncode == 0) == kept
    if kept:
        assert json.loads((tmp_path / "results/coco/source.json").read_text())["sha256"] == found
    else:
        said = f"{host}/annotations.zip: its SHA-256 is {found}, not {sha256}; what is there is not what"
        assert said in run.stdout + run.stderr
        assert not list((tmp_path / "results").glob("coco/*"))
