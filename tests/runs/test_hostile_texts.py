"""Nothing that a user writes reaches a shell: every rule hands it to its step as it is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

from bad_input import GOOD, NAMES, ROWS, as_table, zipped
from edited import tree
from lethe.config.schema import with_defaults
from lethe.inputs.concepts import KINDS, slug_of
from lethe.steps.job import Job, _job
from plans import SHIPPED
from running import ROOT, snakemake

STUB = """#!{python} -IS
import json, os, pathlib, sys, uuid
if sys.argv[1] == "-c":  # whether it can run the steps
    sys.exit()
call = json.dumps([os.environ["PYTHONPATH"], *sys.argv[1:]])
pathlib.Path({calls!r}, uuid.uuid4().hex).write_text(call)
for option, name, path in zip(sys.argv, sys.argv[1:], sys.argv[2:]):
    if option == "--out" and name == "sheets":
        pathlib.Path(path).mkdir()
    elif option == "--out":
        pathlib.Path(path).write_text("made")
"""


def test_every_rule_hands_hostile_texts_to_its_step_as_they_are(
    tmp_path: Path, sd_folder: Path, clip_folder: Path, clipseg_folder: Path
) -> None:
    """A whole run of the Snakefile, with a `python` that writes down what it is called with and makes the outputs."""
    odd = 'it\'s $(touch canary) `touch canary` "q" \\n %s; touch canary'
    work, clone, calls = tmp_path / (odd + " {base}"), tmp_path / f"clone {odd}", tmp_path / "calls"
    (work / "config").mkdir(parents=True)
    calls.mkdir()
    clone.symlink_to(ROOT)
    names = list(NAMES.values())
    (work / "config" / "concepts.tsv").write_text(as_table(*names))
    for name, source in {"sd": sd_folder, "clip": clip_folder, "clipseg": clipseg_folder}.items():
        (work / f"{name} {odd}").symlink_to(source)
    files = {kind: f"{kind} {odd}.txt" for kind in KINDS}
    files |= {"rows": f"rows {odd}.csv", "classes": f"classes {odd}.tsv", "images": f"images {odd}.zip"}
    for name in files.values():
        (work / name).write_text("{}\n")
    (work / files["rows"]).write_text(ROWS + "".join(f"a,{odd.replace(chr(34), '')},{n}\n" for n in range(9)))
    (work / files["images"]).write_bytes(zipped(*((f"{odd} {n}.png", GOOD) for n in range(9))))

    config = with_defaults(SHIPPED)
    config["bases"] = {"b.a-s_e": {"model": f"./sd {odd}", "revision": None}}
    erased = [NAMES[key] for key in ("command", "traversal", "braces of wildcards", "option")]
    (work / files["classes"]).write_text("\n".join(["$(touch canary)", "ship", *erased, ""]))  # under a hostile header
    task = {"base": "b.a-s_e", "concepts": erased, "methods": ["mace"], "evaluation": "e.v-a_l"}
    config["tasks"] = {"t.a-s_k": task}
    config["templates"] = {kind: files[kind] for kind in KINDS}
    config["images"]["prompts"]["object"] = "a {} $(touch canary)'s"
    config["masks"]["clipseg"]["model"] = f"./clipseg {odd}"
    config["masks"]["prompts"]["object"] = "{} `touch canary`"
    config["priors"] = {"captions": {"file": files["rows"], "column": "prompt"}}
    config["suites"] = {
        "w.o-r_d": {"table": files["classes"], "column": "$(touch canary)", "prompt": f"{{}} {odd}", "seeds": [1, 1]},
        "rows": {"file": files["rows"]},
    }
    config["measures"] = {"j-u.d_ge": {"kind": "clip", "model": f"./clip {odd}"}}
    config["evaluations"] = {
        "e.v-a_l": {
            "kind": "objects",
            "clip": "j-u.d_ge",
            "classes": {"table": files["classes"], "column": "$(touch canary)"},
            "class_prompt": f"{{}} {odd}",
            "reference_images": files["images"],
            **dict.fromkeys(("erased", "generality", "kept"), "w.o-r_d"),
            "quality": "rows",
        }
    }
    (work / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB.format(python=os.path.realpath(sys.executable), calls=str(calls)))
    stub.chmod(0o755)
    before = tree(tmp_path)

    targets = ["all", *(f"results/b.a-s_e/concepts/{slug_of(name)}/moments.safetensors" for name in names)]
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    run = snakemake(work, "--cores", "2", *targets, rules=clone / "Snakefile", environment={"PATH": path})
    assert run.returncode == 0, run.stdout + run.stderr
    made = {name for name in tree(tmp_path).keys() - before.keys() if not name.startswith("calls/")}
    assert all(
        name.startswith(tuple(f"{work.name}/{part}/" for part in ("results", "logs", ".snakemake"))) for name in made
    )
    assert not list(tmp_path.rglob("canary*"))

    steps: dict[str, list[Job]] = {}
    for path in calls.iterdir():
        library, dash, frame, *words = json.loads(path.read_text())
        assert (Path(library).resolve(), dash, frame) == (ROOT / "workflow", "-m", "lethe.frame.start")
        call, _ = _job(words)
        steps.setdefault(call.step, []).append(call)
    told = {call.settings.concept: call for call in steps["moments"]}
    assert set(told) == set(names)
    for name, call in told.items():
        assert call.read("templates") == Path(files["object"])
        assert call.settings.text["model"] == f"./sd {odd}"
        assert call.out["moments"] == Path(f"results/b.a-s_e/concepts/{slug_of(name)}/moments.safetensors")
    assert sorted(steps["mask_sheets"][0].settings.concepts) == sorted(erased)
    assert {call.settings.masks["prompt"] for call in steps["masks"]} == {"{} `touch canary`"}
    assert sorted(concept["name"] for concept in steps["edit"][0].settings.concepts) == sorted(erased)
    (classes,) = steps["texts"]
    assert classes.read("table") == Path(files["classes"])
    assert classes.settings.column == "$(touch canary)"
    assert classes.settings.prompt == f"{{}} {odd}"
    assert Path(files["images"]) in [call.read("images") for call in steps["measure"] if "images" in call.reads]
    (prior,) = steps["prior"]
    assert prior.read("sources") == Path(files["rows"])
    assert prior.settings.text["model"] == f"./sd {odd}"
    suites = [call.settings.rows for call in steps["sample"]]
    assert config["suites"]["w.o-r_d"] in suites
