"""Provenance: hashes that follow content and nothing else, and the modules that a step's result depends on."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from conftest import ROOT
from lethe.records import code as provenance
from lethe.records.code import code_hash, commit, environment, python_problem, source_files

LIBRARY = ROOT / "workflow" / "lethe"
STEPS = sorted(path.stem for path in (LIBRARY / "steps").glob("*.py") if path.stem != "__init__")


def names(module: str) -> set[str]:
    return {Path(path).relative_to(LIBRARY).as_posix() for path in source_files(module)}


# Modules


def test_classes_depend_on_suites_and_files_and_not_on_lora() -> None:
    found = names("lethe.steps.clip_classes")
    assert {
        "steps/clip_classes.py",
        "steps/job.py",
        "inputs/suites.py",
        "files/shards.py",
        "inputs/templates.py",
        "records/code.py",
    } <= found
    assert not found & {"methods/mace/training.py", "erasure/closed_form.py", "bases/sampling.py", "erasure/masks.py"}


def test_sampling_depends_on_how_edits_apply_and_not_on_how_they_are_made() -> None:
    found = names("lethe.steps.sample")
    assert {"edits/edit.py", "edits/low_rank.py", "bases/sampling.py"} <= found
    assert not found & {
        "erasure/closed_form.py",
        "methods/mace/join.py",
        "erasure/moments.py",
        "edits/export.py",
        "__main__.py",
    }


def test_a_lora_depends_on_the_algebra_and_not_on_measures() -> None:
    found = names("lethe.steps.lora")
    assert {
        "erasure/closed_form.py",
        "methods/mace/join.py",
        "methods/mace/training.py",
        "erasure/attention.py",
    } <= found
    assert not found & {
        "measures/clip.py",
        "tables/protocols.py",
        "tables/objects.py",
        "pictures/figures.py",
        "edits/edit.py",
    }


@pytest.mark.parametrize("step", STEPS)
def test_a_step_names_the_modules_that_importing_it_loads(step: str) -> None:
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "lethe"}
    try:
        importlib.import_module(f"lethe.steps.{step}")
    finally:
        fresh = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "lethe"}
        sys.modules.update(kept)
    loaded = {Path(module.__file__).relative_to(LIBRARY).as_posix() for module in fresh.values()}
    derived = names(f"lethe.steps.{step}")
    assert {path for path in loaded if "__init__" not in path} <= derived
    for path in derived - loaded:  # imported inside a function, or for types alone
        module = Path(path).with_suffix("").as_posix().replace("/", ".")
        assert any(f"lethe.{module} import" in Path(LIBRARY, user).read_text() for user in derived), path


def test_imports_inside_functions_count() -> None:
    assert "bases/pipeline.py" in names("lethe.steps.base")


def test_source_files_are_sorted_and_each_is_there_once() -> None:
    found = source_files("lethe.steps.lora")
    assert list(found) == sorted(set(found))
    assert all(Path(path).is_file() for path in found)


@pytest.mark.parametrize("module", ["lethe.nothing", "torch", "lethe_other", "lethe.steps.nothing"])
def test_a_module_of_others_is_refused(module: str) -> None:
    with pytest.raises(ValueError, match=f"source_files: `module` must be a module of lethe; got '{module}'"):
        source_files(module)


# Records


def test_environment_names_what_shapes_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = environment()
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["no-such-package"] == "not installed"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_is_that_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "commit" not in environment()
    monkeypatch.setattr(provenance, "LIBRARY", tmp_path)
    assert commit() == "not a git checkout"
    for command in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert commit() == head.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert commit() == "not a git checkout"


def test_code_hash_follows_the_modules_of_a_step_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(LIBRARY, tmp_path / "lethe", ignore=shutil.ignore_patterns("__pycache__"))

    def found() -> str:
        source_files.cache_clear()
        code_hash.cache_clear()
        return code_hash("lethe.steps.moments")

    try:
        here = found()
        monkeypatch.setattr(provenance, "LIBRARY", tmp_path / "lethe")
        assert found() == here
        (tmp_path / "lethe" / "erasure" / "masks.py").write_text("# of other steps")
        assert found() == here
        (tmp_path / "lethe" / "bases" / "prompts.py").write_text("# changed")
        assert found() != here
    finally:
        source_files.cache_clear()
        code_hash.cache_clear()


def test_the_python_on_path_must_be_able_to_run_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = sys.executable
    monkeypatch.setenv("PATH", str(Path(own).parent))
    assert python_problem(own) is None
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    monkeypatch.setenv("PATH", str(bare / "bin"))
    assert python_problem(own) == (
        f"the steps run `python` from PATH, and {bare}/bin/python has no torch and diffusers; "
        f"activate the environment of {own}, then run again"
    )
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {own} "$@"\n')  # another folder, the same packages
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert python_problem(own) is None
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert "there is none" in python_problem(own)
