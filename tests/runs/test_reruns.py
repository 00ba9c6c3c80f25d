"""What reruns when something changes: the jobs that Snakemake plans, and the files that a run then writes anew."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lethe.inputs.concepts import slug_of
from running import ROOT, contents, planned, snakemake

CAT = '$(touch pwned)\'s "cat"'  # the last of the task's concepts
EVALUATED = {"sample": 4, "clip": 4, "objects_table": 1, "examples": 1, "all": 1}  # one edit, anew
JOINED = {"mace": 1, **EVALUATED}
EDIT, TABLE, FIGURE = "sd/edits/objects/mace.safetensors", "tables/*", "figures/*"
OF_THE_EDIT = (EDIT, "sd/samples/objects/*", "sd/measures/objects/*", TABLE, FIGURE)


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


def change_the_prompts_of_classes(folder: Path) -> None:
    configure(folder, lambda config: config["evaluations"]["objects"].update(class_prompt="a picture of a {}"))


def add_a_suite(folder: Path) -> None:
    (folder / "more.csv").write_text("type,prompt,evaluation_seed\nship,one more ship,1\nship,one more ship,2\n")

    def change(config: dict) -> None:
        config["suites"]["more"] = {"file": "more.csv"}
        config["evaluations"]["objects"]["generality"] = "more"

    configure(folder, change)


def change_the_fusion(folder: Path) -> None:
    configure(folder, lambda config: config["mace"].update(fuse_preserve_scale=0.5))


def change_the_captions(folder: Path) -> None:
    replace(folder / "captions.csv", "ship 7", "bird 7")


def comment_in_the_concept_table(folder: Path) -> None:
    path = folder / "config/concepts.tsv"
    path.write_text(f"# reviewed\n{path.read_text()}# more to come\n")


def touch_everything(folder: Path) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    random.Random(0).shuffle(paths)
    for path in [*paths, *ROOT.glob("workflow/**/*.*"), *ROOT.glob("resources/**/*.*"), ROOT / "Snakefile"]:
        path.touch()


def delete_intermediates(folder: Path) -> None:
    results = folder / "results/sd"
    for path in (results / "concepts/ship/images.zip", results / "concepts/ship/masks.zip", *results.glob("samples")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


CHANGES = [
    (
        change_an_anchor,
        {"moments": 1, "lora": 1, "losses": 1, **JOINED},
        (
            "sd/concepts/ship/moments.safetensors",
            "sd/concepts/ship/lora/*",
            "sd/edits/objects/losses.png",
            *OF_THE_EDIT,
        ),
    ),
    (
        add_a_concept,
        {"images": 1, "masks": 1, "moments": 1, "lora": 1, "losses": 1, "mask_sheets": 1, **JOINED},
        ("sd/concepts/dog/*", "sd/edits/objects/masks/*", "sd/edits/objects/losses.png", *OF_THE_EDIT),
    ),
    (remove_a_concept, {"losses": 1, "mask_sheets": 1, **JOINED}, ("sd/edits/objects/losses.png", *OF_THE_EDIT)),
    (
        change_the_prompts_of_classes,
        {"clip_classes": 1, "objects_table": 1, "all": 1},
        ("evaluations/objects/classes-clip.parquet", TABLE),
    ),
    (
        add_a_suite,
        {"sample": 2, "clip": 2, "objects_table": 1, "examples": 1, "all": 1},
        tuple(f"sd/{made}/{edit}/more/*" for made in ("samples", "measures") for edit in ("original", "objects/mace"))
        + (TABLE, FIGURE),
    ),
    (change_the_fusion, JOINED, OF_THE_EDIT),
    (
        change_the_captions,
        {"prior": 1, "lora": 2, "losses": 1, **JOINED},
        ("priors/*/captions.safetensors", "sd/concepts/*/lora/*", "sd/edits/objects/losses.png", *OF_THE_EDIT),
    ),
    (comment_in_the_concept_table, {}, ()),
    (touch_everything, {}, ()),
    (delete_intermediates, {}, ()),
]


def run(folder: Path, *arguments: str, **more: object) -> str:
    ran = snakemake(folder, "--cores", "2", *arguments, **more)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(("change", "jobs", "written"), CHANGES, ids=[change.__name__ for change, *_ in CHANGES])
def test_a_change_reruns_what_it_touches(
    folder: Path, forked: dict[str, str], change: Callable[[Path], None], jobs: dict[str, int], written: tuple[str, ...]
) -> None:
    change(folder)
    before = contents(folder)
    assert planned(run(folder, "-n")) == jobs
    run(folder, environment=forked)
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


def test_many_reruns_end_where_one_run_ends(folder: Path, forked: dict[str, str], tmp_path: Path) -> None:
    for changes in ((change_an_anchor, add_a_suite), (add_a_concept, change_the_fusion)):
        for change in changes:
            change(folder)
        run(folder, environment=forked)
        assert "Nothing to be done" in run(folder)
    fresh = shutil.copytree(folder, tmp_path / "fresh", ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
    run(fresh, environment=forked)
    once, often = contents(fresh), contents(folder)
    assert {path for path, content in once.items() if often[path] != content} == set()


MODULES = {
    "tables": {"objects_table": 1, "all": 1},
    "figures": {"losses": 1, "examples": 1, "all": 1},
    "measures/table": {"clip": 8, "clip_classes": 1, "clip_reference": 1, "objects_table": 1, "all": 1},
    "contact_sheets": {"mask_sheets": 1, "all": 1},
    "attention": {"lora": 2, "losses": 1, **JOINED},
    "methods/mace": {"lora": 2, "losses": 1, **JOINED},
    "export": {},  # and so the same code elsewhere reruns nothing
    "steps/clip_classes": {"clip_classes": 1, "objects_table": 1, "all": 1},
}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_library_reruns_the_steps_that_import_it(folder: Path, tmp_path: Path, module: str) -> None:
    for name in ("workflow", "profiles", "config", "envs"):
        shutil.copytree(ROOT / name, tmp_path / "code" / name)
    shutil.copy(ROOT / "Snakefile", tmp_path / "code")
    rules = tmp_path / "code" / "Snakefile"
    with (tmp_path / "code" / "workflow" / "lethe" / f"{module}.py").open("a") as file:
        file.write("# a change\n")
    assert planned(run(folder, "-n", rules=rules)) == MODULES[module]


def test_what_a_failed_job_left_out_hides_no_change(folder: Path) -> None:
    change_the_captions(folder)
    change_an_anchor(folder)
    jobs = planned(run(folder, "-n"))
    for path in ("priors/*/captions.safetensors", "sd/concepts/ship/moments.safetensors", "sd/concepts/*/lora/*.saf*"):
        for made in (folder / "results").glob(path):
            made.unlink()  # as Snakemake does for a job that failed
    assert planned(run(folder, "-n")) == jobs


# Snakemake's own notes are lost


def jobs_after(folder: Path, *arguments: str) -> tuple[dict[str, int], str]:
    said = run(folder, "-n", *arguments)
    return planned(said), said


def change_settings(folder: Path) -> None:
    """F09: seed, strength and steps."""
    configure(folder, lambda config: config.update(seed=7))
    configure(folder, lambda config: config["mace"].update(lamb=50.0))
    configure(folder, lambda config: config["sampling"].update(steps=5))


@pytest.mark.parametrize("change", [change_settings, change_an_anchor, change_the_captions])
def test_without_the_notes_of_snakemake_the_records_decide(folder: Path, change: Callable[[Path], None]) -> None:
    with_notes = shutil.copytree(folder, folder.with_name("with_notes"), symlinks=True)
    change(with_notes)
    expected, said = jobs_after(with_notes)
    assert sum(expected.values()) > 5
    assert "Snakemake's notes" not in said
    shutil.rmtree(folder / ".snakemake")
    jobs, said = jobs_after(folder)
    assert jobs == {}
    records = len(list((folder / "results/provenance").rglob("*.json")))
    assert f"Snakemake's notes of {records} files in results were missing or older: made again from the records" in said
    shutil.rmtree(folder / ".snakemake")
    change(folder)
    assert jobs_after(folder)[0] == expected


def test_results_copied_without_their_times_are_current(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    touch_everything(folder)
    assert jobs_after(folder)[0] == {}


def test_two_projects_with_one_results_folder_see_what_the_other_made(folder: Path, forked: dict[str, str]) -> None:
    other = shutil.copytree(folder, folder.with_name("other"), ignore=shutil.ignore_patterns("results"))
    (other / "results").symlink_to(folder / "results")
    assert jobs_after(other)[0] == {}
    change_the_fusion(other)
    run(other, environment=forked)
    assert "Nothing to be done" in run(other)
    assert jobs_after(folder)[0] == JOINED  # back to its own settings
    run(folder, environment=forked)
    assert jobs_after(other)[0] == JOINED


def test_what_nobody_knows_the_making_of_is_said(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    shutil.rmtree(folder / "results/provenance/tables")
    jobs, said = jobs_after(folder)
    assert jobs == {}
    unknown = "results/tables/objects.csv, results/tables/objects.json"
    assert f"Neither Snakemake's notes nor records say how {unknown} were made" in said
    assert "run with --forceall" in said


def test_a_record_of_an_earlier_version_makes_its_file_again(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    replace(folder / "results/provenance/sd/edits/objects/mace.safetensors.json", '"made_by": "', '"made_by_then": "')
    assert jobs_after(folder)[0] == JOINED


def test_triggers_that_pass_changes_by_are_said(folder: Path) -> None:
    change_settings(folder)
    jobs, said = jobs_after(folder, "--rerun-triggers", "mtime")
    assert jobs == {}
    assert "rerun-triggers leaves out params" in said


# What a job does not read


def test_device_and_spare_templates_decide_nothing_and_a_seed_what_draws(folder: Path) -> None:
    configure(folder, lambda config: config.update(device="cpu"))
    assert jobs_after(folder)[0] == {}
    configure(folder, lambda config: config.update(seed=7))
    jobs = jobs_after(folder)[0]
    assert {"images": 2, "masks": 2, "lora": 2, "mace": 1}.items() <= jobs.items()
    assert not {"moments", "prior", "base", "clip_classes"} & jobs.keys()
    configure(folder, lambda config: config.update(seed=2024))
    for kind in ("object", "style"):
        shutil.copy(ROOT / f"resources/templates/{kind}.txt", folder)
        configure(folder, lambda config, kind=kind: config["templates"].update({kind: f"{kind}.txt"}))
    shutil.rmtree(folder / ".snakemake")  # Snakemake would see another path; records see the prompts that are used
    assert jobs_after(folder)[0] == {}
    path = folder / "object.txt"
    lines = path.read_text().splitlines()
    used = [line for line in lines if line.strip() and not line.startswith("#")][:4]
    path.write_text("\n".join([*lines, "# a comment", "one {} more", ""]))
    assert jobs_after(folder)[0] == {}
    replace(path, used[3], "another {}")
    assert {"moments": 1, "lora": 1, "mace": 1, "sample": 4}.items() <= jobs_after(folder)[0].items()


# The base's content


def own_base(folder: Path) -> Path:
    """A copy of the project's base beside it, put into its configuration."""
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    copy = Path(shutil.copytree(config["bases"]["sd"]["model"], folder / "copied base"))
    configure(folder, lambda config: config["bases"]["sd"].update(model="copied base"))
    return copy


def test_the_same_models_elsewhere_rerun_nothing(folder: Path) -> None:
    """F26: base, judge and segmenter copied, linked, and with cards and pictures added."""
    base = own_base(folder)
    assert jobs_after(folder)[0] == {}
    (base / "README.md").write_text("A card")
    (base / "unet" / "picture.png").write_bytes(b"x")
    (folder / "linked base").mkdir()
    for path in base.iterdir():
        (folder / "linked base" / path.name).symlink_to(path)
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    shutil.copytree(config["evaluations"]["objects"]["clip"]["model"], folder / "judge")
    shutil.copytree(config["masks"]["clipseg"]["model"], folder / "segmenter")
    configure(folder, lambda config: config["bases"]["sd"].update(model="linked base"))
    configure(folder, lambda config: config["evaluations"]["objects"]["clip"].update(model="judge"))
    configure(folder, lambda config: config["masks"]["clipseg"].update(model="segmenter"))
    assert jobs_after(folder)[0] == {}


def test_one_changed_weight_of_a_linked_part_reruns_all_that_reads_it(folder: Path, sd_folder: Path) -> None:
    """F02 and F35: a linked U-Net of which one value of one cross-attention matrix changes, at the same size."""
    base = own_base(folder)
    (base / "unet").rename(folder / "unet")
    (base / "unet").symlink_to(folder / "unet")
    assert jobs_after(folder)[0] == {}
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("attn2.to_k.weight"))
    weights[name][-1, -1] += 1
    save_file(weights, path, {"format": "pt"})
    jobs = jobs_after(folder)[0]
    assert "prior" not in jobs  # the text encoder is the same
    assert {"base": 1, "images": 2, "masks": 2, "moments": 2, "lora": 2, "mace": 1, "sample": 8}.items() <= jobs.items()


def test_a_changed_judge_or_segmenter_reruns_what_looks_through_it(folder: Path) -> None:
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    for name, place in (("judge", config["evaluations"]["objects"]["clip"]), ("clipseg", config["masks"]["clipseg"])):
        path = Path(shutil.copytree(place["model"], folder / name)) / "model.safetensors"
        weights = load_file(path)
        save_file(weights | {"logit_scale": weights.get("logit_scale", torch.ones(1)) + 1}, path, {"format": "pt"})
    configure(folder, lambda config: config["evaluations"]["objects"]["clip"].update(model="judge"))
    looked = {"clip": 8, "clip_classes": 1, "clip_reference": 1, "objects_table": 1, "all": 1}
    assert jobs_after(folder)[0] == looked
    configure(folder, lambda config: config["masks"]["clipseg"].update(model="clipseg"))
    assert jobs_after(folder)[0].items() >= {"masks": 1, "lora": 1, "mace": 1, "sample": 4}.items()


STUB = """#!/bin/sh
# In place of every step: make its outputs, empty.
while [ $# -gt 0 ]; do
    case $1 in
        --out) case "$2" in sheets) mkdir "$3" ;; *) : > "$3" ;; esac ;;
    esac
    shift
done
"""


def test_one_more_concept_than_a_hundred_plans_that_one_and_the_join(project: Path, tmp_path: Path) -> None:
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
    assert "concept=thing-100" in plan
    assert "concept=thing-99" not in plan
