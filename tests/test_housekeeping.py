"""The repository keeps its own rules: formatting, lint, pinned environments, a README whose commands exist."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import Counter

import pytest
import yaml

from bad_input import Case, each_of
from emoji_world.plan import EmojiPlan
from lethe.__main__ import parser_of
from lethe.jobs import Step
from lethe.plan import Plan
from lethe.plugins import kinds, manifest
from running import ROOT

RULES = "\n".join(path.read_text() for path in ROOT.glob("workflow/**/*.smk"))


def tool(*command: str) -> subprocess.CompletedProcess:
    """Run a Python tool of this environment in the repository."""
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "workflow/Snakefile", "workflow/rules", "workflow/emoji_world/rules.smk"),
    ],
    ids=" ".join,
)
def test_formatting_and_lint(command: tuple[str, ...]) -> None:
    run = tool(*command)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_rule_runs_the_job_that_its_declaration_plans() -> None:
    """Rules say nothing of their own about what is read, written or told."""
    rules = [rule for rule in re.split(r"\n(?=rule |\S)", RULES) if rule.startswith("rule ") and "shell:" in rule]
    assert len(rules) > 20
    for rule in rules:
        (name,) = set(re.findall(r"(?:PLAN|EMOJI)\.(\w+)", rule))
        assert rule.startswith((f"rule {name}:", f"rule emoji_{name}:"))
        for directive in ("unpack(inputs(", "**outputs(", "**told(", "log:", "conda:", "MESSAGE\n", "        COMMAND"):
            assert directive in rule, f"{name} lacks {directive}"
        assert "    resources:" in rule or "    localrule: True" in rule, f"{name} lacks resources:"


@pytest.mark.parametrize("plan", [Plan, EmojiPlan])
def test_every_declaration_has_a_rule_and_a_step_that_runs_it(plan: type) -> None:
    declared = [value for value in vars(plan).values() if isinstance(value, Step)]
    assert len(declared) > 6
    for step in declared:
        assert re.search(rf"^rule (emoji_)?{step.name}:", RULES, re.MULTILINE)
        assert callable(importlib.import_module(step.module).run)


def test_no_table_of_ours_has_the_name_of_a_rule_which_would_be_no_target() -> None:
    files = [*ROOT.glob("config/*.yaml"), *ROOT.glob("config/*/*.yaml")]
    tables = {name for path in files for name in yaml.safe_load(path.read_text()).get("tables", ())}
    assert {"comparison", "attacks", "mass"} <= tables
    assert not tables & set(re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE))


def test_the_environment_is_pinned_where_it_says_so() -> None:
    environment = yaml.safe_load((ROOT / "envs/lethe.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    lines = [
        line for line in (ROOT / "envs/requirements.txt").read_text().splitlines() if line[:1] not in ("#", "-", "")
    ]
    assert len(lines) > 10
    assert pip == lines
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in lines)
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.+]+)$", (ROOT / "envs/constraints.txt").read_text(), re.MULTILINE))
    canonical = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for line in lines:
        name, version = re.sub(r"\[.*\]", "", line).split("==")
        assert canonical[name.lower().replace("_", "-")] == version
    page = (ROOT / "docs" / "machines.md").read_text()
    assert all(line in page for line in lines if line.startswith("torch"))


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    marked = re.findall(r"<!-- test command -->\n```bash\n(.+)\n```", readme)
    assert len(marked) == 1
    assert "pytest" in marked[0]
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text()


def test_the_commands_that_documents_name_are_there() -> None:
    """In code letters, at the beginning of a line of a block, and in the notebook."""
    commands = re.findall(r"^    ([a-z]+) ", parser_of(measures=False).format_help(), re.MULTILINE)
    documents = [ROOT / name for name in ("README.md", "config/README.md", "results/README.md")]
    documents += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    told = {
        word for path in documents for word in re.findall(r"(?:`|^)lethe ([a-z][\w-]*)", path.read_text(), re.MULTILINE)
    }
    assert told - {"warm"} == set(commands)  # `lethe warm` is the name of a process


def test_links_in_the_documents_lead_somewhere() -> None:
    documents = [ROOT / name for name in ("README.md", "config/README.md", "results/README.md")]
    for document in documents + sorted((ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("method", kinds("methods"))
def test_every_method_has_a_page_that_speaks_of_its_settings(method: str) -> None:
    """What stands in a page in code letters is a setting or a value of the method's manifest; the overview links it."""
    folder, said = ROOT / "docs" / "methods", manifest("methods", method)
    assert f"({method}.md)" in (folder / "README.md").read_text()
    rules, known = [said.settings["properties"]], {"true", "false", "''"}
    while rules:
        for key, rule in rules.pop().items():
            known |= {key, *map(str, rule.get("enum", ()))}
            rules += [rule["properties"]] if "properties" in rule else []
    told = re.findall(r"`([^`]+)`", (folder / f"{method}.md").read_text())
    words = {word for part in told for word in re.split(r"\.\*|[.: ]+", part) if word}
    assert words
    assert words <= known


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """The folders of tests are no packages, so of two files of one name a run leaves one out."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_cases_of_bad_input_are_some_and_each_has_a_name_of_its_own() -> None:
    one, other = (Case(name, lambda place: print) for name in ("one", "other"))
    assert each_of([one, other]).name == "parametrize"
    for cases in ([], [one, other, one]):
        with pytest.raises(AssertionError):
            each_of(cases)


def test_hosted_ci_runs_the_same_script_on_every_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["tests"] == ["bash .ci/run"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    development = (ROOT / "envs/requirements-development.txt").read_text()
    for command in commands["lint"] + commands["docs"]:
        for names in re.findall(r"grep -E '\^\((.+)\)=='", command):
            assert all(re.search(rf"^{name}==", development, re.MULTILINE) for name in names.split("|"))


def test_the_image_takes_what_is_there_and_pinned() -> None:
    recipe, kept = ((ROOT / name).read_text() for name in ("Containerfile", ".dockerignore"))
    copied = [source for line in re.findall(r"^COPY (.+)$", recipe, re.MULTILINE) for source in line.split()[:-1]]
    assert {"envs/requirements.txt", "envs/constraints.txt", "workflow/lethe"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}" in kept.splitlines()
