"""The workflow as a module, which snakedeploy writes: its rules come from a repository, the library from pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from running import ROOT, planned, snakemake

ADDRESS = "https://github.com/owner/lethe"
CLONED = ("workflow", "config", "envs", "profiles", "Snakefile", "README.md", "LICENSE", "pyproject.toml")


def ran(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program, which must succeed."""
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(environment or {}), timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a machine whose git has this repository at `ADDRESS`, and whose Python has the library installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    repository = folder / "repository"
    repository.mkdir()
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, repository)
    git = ("git", "-C", repository, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    ran(*git, "init", "--quiet")
    ran(*git, "add", "--all")
    ran(*git, "commit", "--quiet", "--message", "All")
    ran(*git, "tag", "v0.1.0")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", folder / "site")
    ran(sys.executable, "-m", "pip", "install", *options, repository)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(folder / "site"),
    }


@pytest.fixture(scope="module")
def deployed(elsewhere: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was empty before snakedeploy came; its configuration is that of Stable Diffusion 1.4."""
    if sys.version_info >= (3, 13):
        pytest.skip("snakedeploy wants a Python below 3.13")
    folder = tmp_path_factory.mktemp("deployed") / "mine"
    deploy = Path(sys.executable).with_name("snakedeploy")
    ran(deploy, "deploy-workflow", ADDRESS, folder, "--tag", "v0.1.0", environment=elsewhere)
    assert {path.name for path in folder.iterdir()} == {"workflow", "config", "profiles", "LICENSE"}
    module = 'github("owner/lethe", path="workflow/Snakefile", tag="v0.1.0")'
    assert module in (folder / "workflow" / "Snakefile").read_text()
    shutil.copy(folder / "config" / "sd14.yaml", folder / "config" / "config.yaml")
    return folder


def test_a_deployed_workflow_plans(deployed: Path, elsewhere: dict[str, str]) -> None:
    run = snakemake(deployed, "-n", rules=deployed / "workflow" / "Snakefile", environment=elsewhere)
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = planned(run.stdout + run.stderr)
    assert (jobs["task_lora"], jobs["edit"], jobs["table"], jobs["all"]) == (3, 3, 1, 1)


def test_a_job_of_a_deployed_workflow_runs_the_installed_library(
    deployed: Path, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(deployed, tmp_path / "mine", ignore=shutil.ignore_patterns(".snakemake"))
    shutil.copy(ROOT / "config" / "config.yaml", folder / "config")
    (folder / "resources").symlink_to(ROOT / "resources")
    made, rules = "results/emoji/base.json", folder / "workflow" / "Snakefile"
    run = snakemake(folder, made, "--cores", "1", rules=rules, environment=elsewhere)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((folder / made).read_text())


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ((), {"PYTHONPATH": ""}, "the rules were fetched without the library; install its release"),
        (("--sdm", "conda"), {}, "--sdm conda wants a clone, since its environments lack the library"),
    ],
    ids=["no library", "conda"],
)
def test_what_a_deployed_workflow_cannot_do_is_said(
    deployed: Path, elsewhere: dict[str, str], arguments: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    rules = deployed / "workflow" / "Snakefile"
    run = snakemake(deployed, "-n", *arguments, rules=rules, environment=elsewhere | variables)
    assert run.returncode == 1
    assert told in run.stdout + run.stderr


@pytest.mark.parametrize(("arguments", "code"), [(("--lint",), 0), (("--cores", "1"), 1)])
def test_rules_are_read_without_torch_and_lint_finds_nothing(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """As the catalog of workflows reads them. A run is refused for want of the libraries, before any job."""
    for name in ("config", "resources"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = snakemake(tmp_path, *arguments, environment={"PATH": f"/usr/bin{os.pathsep}/bin"})
    assert run.returncode == code, run.stdout + run.stderr
    assert code == 0 or "the steps run `python` from PATH" in run.stdout + run.stderr
    assert not (tmp_path / "results").exists()
