"""Reruns for real: the files that a run writes anew, and plans from notes, records and files that are lost or old.

What a plan says of each key, file and module is in test_plan.py.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lethe.inputs.concepts import slug_of
from running import ROOT, contents, planned, snakemake

CAT = '$(touch pwned)\'s "cat"'  # the last of the task's concepts
EVALUATED = {"sample": 4, "measure": 4, "table": 1, "examples": 1, "gallery": 1, "all": 1}  # one edit, anew
JOINED = {"edit": 1, **EVALUATED}
EDIT, TABLE, FIGURE, GALLERY = "sd/edits/objects/mace.safetensors", "tables/*", "figures/*", "galleries/*"
OF_THE_EDIT = (EDIT, "sd/samples/objects/*", "sd/measures/objects/*", TABLE, FIGURE, GALLERY)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "project", symlinks=True)


def configure(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_an_anchor(folder: Path) -> None:
    replace(folder / "config/concepts.tsv", "ship\tobject\tground", "ship\tobject\tstreet")


def add_a_concept(folder: Path) -> None:
    replace(folder / "config/concepts.tsv", "ship\t", "dog\tobject\tsky\t\nship\t")
    configure(folder, lambda config: config["tasks"]["objects"]["concepts"].append("dog"))


def remove_a_concept(folder: Path) -> None:
    configure(folder, lambda config: config["tasks"]["objects"]["concepts"].pop())


def add_a_suite(folder: Path) -> None:
    (folder / "more.csv").write_text("type,prompt,evaluation_seed\nship,one more ship,1\nship,one more ship,2\n")

    def change(config: dict) -> None:
        config["suites"]["more"] = {"file": "more.csv"}
        config["evaluations"]["objects"]["generality"] = "more"

    configure(folder, change)


def change_the_fusion(folder: Path) -> None:
    configure(folder, lambda config: config["methods"]["mace"].update(fuse_preserve_scale=0.5))


def change_the_captions(folder: Path) -> None:
    replace(folder / "captions.csv", "ship 7", "bird 7")


def touch_everything(folder: Path) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    random.Random(0).shuffle(paths)
    for path in [*paths, *ROOT.glob("workflow/**/*.*"), *ROOT.glob("resources/**/*.*"), ROOT / "Snakefile"]:
        path.touch()


def delete_intermediates(folder: Path) -> None:
    results = folder / "results/sd"
    for path in (results / "concepts/ship/images.zip", results / "concepts/ship/masks.zip", *results.glob("samples")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def spell_paths_otherwise(folder: Path) -> None:
    def change(config: dict) -> None:
        config["concepts"] = f"./{config['concepts']}"
        config["suites"]["reference"]["file"] = str(folder / "reference.csv")
        config["suites"]["synonyms"]["table"] = "config//concepts.tsv"
        config["priors"]["captions"]["file"] = "./captions.csv"
        config["evaluations"]["objects"]["classes"]["table"] = str(folder / "classes.tsv")

    configure(folder, change)


CHANGES = [
    (
        change_an_anchor,
        {"moments": 1, "lora": 1, "losses": 1, **JOINED},
        (
            "sd/concepts/ship/moments.safetensors",
            "sd/concepts/ship/loras/*",
            "sd/edits/objects/mace/losses.png",
            *OF_THE_EDIT,
        ),
    ),
    (
        add_a_concept,
        {"images": 1, "masks": 1, "moments": 1, "lora": 1, "losses": 1, "mask_sheets": 1, **JOINED},
        ("sd/concepts/dog/*", "sd/edits/objects/masks/*", "sd/edits/objects/mace/losses.png", *OF_THE_EDIT),
    ),
    (
        remove_a_concept,  # and so the suite of synonyms has fewer rows that count, in a shard of another name
        {"losses": 1, "mask_sheets": 1, **JOINED, "sample": 5, "measure": 5},
        (
            "sd/edits/objects/mace/losses.png",
            "sd/samples/original/synonyms/*",
            "sd/measures/original/synonyms/*",
            *OF_THE_EDIT,
        ),
    ),
    (
        change_the_captions,
        {"prior": 1, "lora": 2, "losses": 1, **JOINED},
        ("priors/*/captions.safetensors", "sd/concepts/*/loras/*", "sd/edits/objects/mace/losses.png", *OF_THE_EDIT),
    ),
    (touch_everything, {}, ()),
    (delete_intermediates, {}, ()),
    (spell_paths_otherwise, {}, ()),
]


Run = Callable[..., str]  # of a folder and arguments; what Snakemake said


@pytest.fixture
def run(forked: dict[str, str]) -> Run:
    """Run snakemake, and its steps, as forks."""

    def ended(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
        ran = snakemake(folder, "--cores", "2", *arguments, environment=environment or forked)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    return ended


@pytest.mark.parametrize(("change", "jobs", "written"), CHANGES, ids=[change.__name__ for change, *_ in CHANGES])
def test_a_change_reruns_what_it_touches(
    folder: Path, run: Run, change: Callable[[Path], None], jobs: dict[str, int], written: tuple[str, ...]
) -> None:
    change(folder)
    before = contents(folder)
    assert planned(run(folder, "-n")) == jobs
    if not jobs:
        assert "Nothing to be done" in run(folder)
        assert contents(folder) == before
        return
    run(folder)
    after = contents(folder)
    removed = f"sd/edits/objects/masks/{slug_of(CAT)}.png"  # a picture of the task, drawn without that concept
    assert before.keys() - after.keys() == ({removed} if change is remove_a_concept else set())
    differing = {path for path, content in after.items() if before.get(path) != content}
    assert not {path for path in differing if not any(Path(path).match(pattern) for pattern in deep(written))}
    for pattern in written:
        assert any(Path(path).match(deeper) for path in differing for deeper in deep([pattern])), pattern
    assert "Nothing to be done" in run(folder)


def deep(patterns: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Patterns, with a final `*` standing for files at any depth up to that of shards."""
    for pattern in patterns:
        yield pattern
        if pattern.endswith("/*"):
            yield from (f"{pattern}/*", f"{pattern}/*/*")


def test_many_reruns_end_where_one_run_ends(folder: Path, run: Run, tmp_path: Path) -> None:
    for changes in ((change_an_anchor, add_a_suite), (add_a_concept, change_the_fusion)):
        for change in changes:
            change(folder)
        run(folder)
        assert "Nothing to be done" in run(folder)
    fresh = shutil.copytree(folder, tmp_path / "fresh", ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    run(fresh)
    once, often = contents(fresh), contents(folder)
    assert {path for path, content in once.items() if often[path] != content} == set()


def test_what_a_failed_job_left_out_hides_no_change(folder: Path, run: Run) -> None:
    change_the_captions(folder)
    change_an_anchor(folder)
    configure(folder, lambda config: config["sampling"].update(guidance=5.0))
    jobs = planned(run(folder, "-n"))
    assert jobs["sample"] == jobs["measure"] == 8
    lost = ("priors/*/captions.safetensors", "sd/concepts/ship/moments.safetensors", "sd/concepts/*/loras/*/*.saf*")
    for path in (*lost, "sd/samples/original/synonyms/*.zip"):
        for made in (folder / "results").glob(path):
            made.unlink()  # as Snakemake does for a job that failed
    assert planned(run(folder, "-n")) == jobs


# Snakemake's own notes are lost


def jobs_after(run: Run, folder: Path, *arguments: str) -> tuple[dict[str, int], str]:
    said = run(folder, "-n", *arguments)
    return planned(said), said


def change_settings(folder: Path) -> None:
    """F09: seed, strength and steps."""
    configure(folder, lambda config: config.update(seed=7))
    configure(folder, lambda config: config["methods"]["mace"].update(lamb=50.0))
    configure(folder, lambda config: config["sampling"].update(steps=5))


@pytest.mark.parametrize("change", [change_settings, change_an_anchor, change_the_captions])
def test_without_the_notes_of_snakemake_the_records_decide(
    folder: Path, run: Run, change: Callable[[Path], None]
) -> None:
    with_notes = shutil.copytree(folder, folder.with_name("with_notes"), symlinks=True)
    change(with_notes)
    expected, said = jobs_after(run, with_notes)
    assert sum(expected.values()) > 5
    assert "Snakemake's notes" not in said
    shutil.rmtree(folder / ".snakemake")
    jobs, said = jobs_after(run, folder)
    assert jobs == {}
    records = len(list((folder / "results/provenance").rglob("*.json")))
    assert f"Snakemake's notes of {records} files in results were missing or older: made again from the records" in said
    shutil.rmtree(folder / ".snakemake")
    change(folder)
    assert jobs_after(run, folder)[0] == expected


def test_results_copied_without_their_times_are_current(folder: Path, run: Run) -> None:
    shutil.rmtree(folder / ".snakemake")
    touch_everything(folder)
    assert jobs_after(run, folder)[0] == {}


def test_two_projects_with_one_results_folder_see_what_the_other_made(folder: Path, run: Run) -> None:
    other = shutil.copytree(folder, folder.with_name("other"), ignore=shutil.ignore_patterns("results"))
    (other / "results").symlink_to(folder / "results")
    assert jobs_after(run, other)[0] == {}
    change_the_fusion(other)
    run(other)
    assert "Nothing to be done" in run(other)
    assert jobs_after(run, folder)[0] == JOINED  # back to its own settings
    run(folder)
    assert jobs_after(run, other)[0] == JOINED


def test_what_nobody_knows_the_making_of_is_said(folder: Path, run: Run) -> None:
    shutil.rmtree(folder / ".snakemake")
    shutil.rmtree(folder / "results/provenance/tables")
    jobs, said = jobs_after(run, folder)
    assert jobs == {}
    first = ", ".join(f"results/tables/objects{end}" for end in (".csv", ".images.csv", ".json"))
    assert f"Neither Snakemake's notes nor records say how {first} and 2 more were made" in said
    assert "run with --forceall" in said


def test_a_record_of_an_earlier_version_makes_its_file_again(folder: Path, run: Run) -> None:
    shutil.rmtree(folder / ".snakemake")
    replace(folder / "results/provenance/sd/edits/objects/mace.safetensors.json", '"made_by": "', '"made_by_then": "')
    assert jobs_after(run, folder)[0] == JOINED


def test_triggers_that_pass_changes_by_are_said(folder: Path, run: Run) -> None:
    change_settings(folder)
    jobs, said = jobs_after(run, folder, "--rerun-triggers", "mtime")
    assert jobs == {}
    assert "rerun-triggers leaves out params" in said


# Many concepts


STUB = """#!/bin/sh
# In place of every step: make its outputs, empty.
while [ $# -gt 0 ]; do
    case $1 in
        --out) case "$2" in sheets) mkdir "$3" ;; *) : > "$3" ;; esac ;;
    esac
    shift
done
"""


def test_one_more_concept_than_a_hundred_plans_that_one_and_the_join(project: Path, run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(project, tmp_path / "many", ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    names = [f"thing {k}" for k in range(101)]

    def erase(n: int) -> None:
        rows = "".join(f"{name}\tobject\tsky\t\n" for name in names[:n])
        (folder / "config/concepts.tsv").write_text(f"concept\tkind\tanchor\tsynonyms\n{rows}")
        configure(folder, lambda config: config["tasks"]["objects"].update(concepts=names[:n]))

    (folder / "classes.tsv").write_text("object\nthing 0\ndog\nhorse\ncat\n")
    (folder / "all.tsv").write_text("\n".join(["object", *names, "dog", "horse", "cat", ""]))
    configure(folder, lambda config: config["evaluations"]["objects"]["classes"].update(table="all.tsv"))
    configure(folder, lambda config: config["suites"]["synonyms"].update(table="classes.tsv", column="object"))
    configure(folder, lambda config: config["suites"]["synonyms"].update(type_column="object"))
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(STUB)
    python.chmod(0o755)
    erase(100)
    run(folder, environment={"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"})
    assert len(list((folder / "results/sd/concepts").iterdir())) == 100
    erase(101)
    plan = run(folder, "-n")
    chain = {"images": 1, "masks": 1, "moments": 1, "lora": 1, "losses": 1, "mask_sheets": 1}
    assert planned(plan) == {**chain, **JOINED}
    assert "logs/lora/sd/thing-100/" in plan
    assert "thing-99/" not in plan
