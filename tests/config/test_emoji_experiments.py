"""The experiments of config/emoji: each plans by itself and all together, to the same outputs made in the same way."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from emoji_world.world import read_world
from lethe.config.checks import check_config
from lethe.config.planning import check_plan, read_inputs, remarks
from lethe.config.schema import merged, method_of
from lethe.inputs.concepts import read_concepts
from lethe.inputs.priors import prior_texts
from lethe.jobs import Job
from lethe.plan import Plan
from lethe.records.estimates import planned_steps
from plans import kept_hash
from running import ROOT

FILES = sorted(path.stem for path in (ROOT / "config" / "emoji").glob("*.yaml"))
KEPT_PEOPLE, REFERENCE = 62 * 2, 240
# Images of edits, and of the base as it is, by hand.
IMAGES = {
    "ablation": (4 * (50 * 4 + KEPT_PEOPLE), 50 * 4 + KEPT_PEOPLE),
    "explicit": (4 * (80 * 5 + REFERENCE), 80 * 5 + REFERENCE),
    "people": (
        2 * (3 * 40 + 200 + 400) + 3 * 400 + 13 * (KEPT_PEOPLE + REFERENCE),
        40 + 40 + 40 + 200 + 400 + KEPT_PEOPLE + REFERENCE,
    ),
    "styles": (2 * (7 * 6 * 8 + REFERENCE), 7 * 6 * 8 + REFERENCE),
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def planned(*names: str) -> tuple[dict, Plan, list[Job]]:
    """The configurations of some files together, with all defaults, their plan, and the jobs of a run."""
    paths = [Path("config", "emoji", f"{name}.yaml") for name in names]
    config = check_config(merged(yaml.safe_load(path.read_text()) for path in paths), files=paths)
    inputs = read_inputs(config)
    check_plan(config, inputs)
    assert remarks(config, inputs) == []
    plan = Plan(config, inputs, locate=lambda model, *_: Path(model), hash_file=kept_hash)
    return config, plan, plan.jobs


def made(*names: str) -> dict[str, str]:
    """The digest of how each output is made."""
    return {path: job.digest for job in planned(*names)[2] for path in job.outputs.values()}


def images(name: str) -> tuple[int, int]:
    """Images drawn of edits, and of the base as it is."""
    _, plan, jobs = planned(name)
    drawn = {True: 0, False: 0}
    for job in (job for job in jobs if job.step.name == "sample"):
        drawn[job.told.settings["about"]["edit"] == "original"] += plan.images_of(job)
    return drawn[False], drawn[True]


def test_all_together_make_what_each_makes_by_itself() -> None:
    """No entry of one file replaces another's of its name: the same outputs, with the same digests, and no others."""
    together, alone = made(*FILES), [made(name) for name in FILES]
    assert set(together) == set().union(*alone)
    for name, found in zip(FILES, alone, strict=True):
        assert {path: together[path] for path in found} == found, name


def test_the_order_of_the_files_is_one() -> None:
    assert made(*FILES) == made(*reversed(FILES))


def test_what_files_share_is_made_once() -> None:
    """The people of the ablation, with their LoRAs and what the base draws of them, are those of the other file."""
    shared = set(made("ablation")) & set(made("people"))
    assert sum("/loras/" in path and path.endswith(".safetensors") for path in shared) == 50
    assert sum("/samples/original/" in path for path in shared) == 2  # of 50 people, and of who is kept
    assert len(planned(*FILES)[2]) < sum(len(planned(name)[2]) for name in FILES)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_an_experiment_draws_as_many_images_as_it_means(name: str) -> None:
    assert images(name) == IMAGES[name]


def test_objects_are_drawn_with_their_synonyms() -> None:
    words = {concept.name: len(concept.synonyms) for concept in read_concepts("config/emoji/concepts.tsv")}
    one_by_one = 10 * (20 + 3 * 8 + 96 * 2)
    order = list(words)[:40]
    erased = {1: 40, 5: 40, 10: 40, 40: 160}
    together = sum(
        n + 4 * sum(words[name] for name in order[:count]) + 57 * 4 + REFERENCE for count, n in erased.items()
    )
    assert images("objects")[0] == one_by_one + 2 * together


def test_one_table_holds_all_that_is_erased() -> None:
    """Objects, people and explicit things as the world has them, the ten of CIFAR-10 with the paper's anchors."""
    concepts = {concept.name: concept for concept in read_concepts("config/emoji/concepts.tsv")}
    released = [*read_concepts("resources/emoji/reference/objects_erase.tsv")]
    ten = {concept.name: concept for concept in read_concepts("config/cifar10.tsv")}
    objects = [concept for concept in concepts.values() if concept.kind == "object"]
    assert objects == [ten.get(concept.name, concept) for concept in released]
    people = [concept for concept in concepts.values() if concept.kind == "person"]
    assert people == read_concepts("resources/emoji/reference/people_erase.tsv")
    world = read_world(Path("resources/emoji"))
    things = [thing for thing in world.things if thing.kind == "explicit"]
    words = list(dict.fromkeys(thing.category for thing in things))
    explicit = [(one.name, one.synonyms) for one in concepts.values() if one.kind == "explicit"]
    assert explicit == [*((word, ()) for word in words), *((thing.name, thing.synonyms) for thing in things)]
    assert {one.name for one in concepts.values() if one.kind == "style"} < {style.name for style in world.styles}
    erased = planned(*FILES)[0]["tasks"]
    assert {name for task in erased.values() for name in task["concepts"]} == set(concepts)


def test_explicit_things_are_counted_among_all_that_the_judge_knows() -> None:
    evaluation = planned("explicit")[0]["evaluations"]["explicit"]
    world = read_world(Path("resources/emoji"))
    assert evaluation["counted"] == [thing.name for thing in world.things if thing.kind == "explicit"]
    subjects = pd.read_csv("resources/emoji/reference/subjects.tsv", sep="\t")
    assert list(subjects["name"]) == planned("explicit")[1].inputs.classes["explicit"]
    assert list(subjects["name"]) == [one.name for one in world.subjects]
    prompts = planned("explicit")[1].inputs.suites["hints"]["prompt"]
    words = {word for thing in world.things if thing.kind == "explicit" for word in (*thing.words, thing.category)}
    assert not any(re.search(rf"\b{word}s?\b", prompt) for word in words for prompt in prompts)


def test_what_is_erased_is_not_preserved() -> None:
    config = planned(*FILES)[0]
    for task, chosen in config["tasks"].items():
        for name in chosen["methods"]:
            prior = config["priors"].get(method_of(config, task, name).get("domain_prior"))
            names = prior_texts({key: prior[key] for key in ("file", "column")}) if prior else []
            assert not set(names) & set(chosen["concepts"]), (task, name)
    styles = prior_texts(config["priors"][method_of(config, "styles", "mace")["prior"]])
    assert not any(name in text for text in styles for name in config["tasks"]["styles"]["concepts"])


def test_the_ablation_differs_in_one_thing_each() -> None:
    config = planned("ablation")[0]
    mace = method_of(config, "ablation", "mace")
    assert mace == method_of(planned("people")[0], "people_50", "mace")
    changes = {"mace-refinement": {"fusion": "none"}, "mace-sum": {"fusion": "sum"}}
    changes["mace-uniform"] = {"lora": mace["lora"] | {"timesteps": "uniform"}}
    for name, change in changes.items():
        assert method_of(config, "ablation", name) == mace | change


def test_every_table_is_a_target() -> None:
    targets = planned(*FILES)[1].targets()
    assert set(targets) == {"ablation", "explicit", "mass", "objects", "objects_mass", "styles"}


def test_the_page_counts_as_plans_do() -> None:
    """docs/paper.md: jobs and images of each file, and of all of them."""
    found = {}
    for name, files in {**{name: [name] for name in FILES}, "all": FILES}.items():
        steps = planned_steps(planned(*files)[2], planned(*files)[1].images_of).values()
        found[name] = f"{sum(step.jobs for step in steps):,} | {sum(step.images for step in steps):,}"
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `?emoji/(\w+)[^|]* \| (.*) \|$", page, re.MULTILINE)) == found
