"""The repository keeps its own rules: formatting, lint, pinned environments, a README whose commands exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
import yaml

from running import ROOT

STEPS = sorted(
    path.stem
    for path in (ROOT / "workflow/lethe/steps").glob("*.py")
    if path.stem not in ("__init__", "job", "failures", "loading")
)
RULES = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))


def tool(*command: str) -> subprocess.CompletedProcess:
    """Run a Python tool of this environment in the repository."""
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "workflow/rules"),
    ],
    ids=" ".join,
)
def test_formatting_and_lint(command: tuple[str, ...]) -> None:
    run = tool(*command)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_a_rule_that_runs_it_and_knows_its_code(step: str) -> None:
    assert f"-m lethe.steps.{step} " in RULES or re.search(rf"rule [a-z_]+ as {step} with:", RULES)
    assert re.search(rf"made_by\(\s*\"{step}\"", RULES)
    assert importlib.util.find_spec(f"lethe.steps.{step}")
    assert re.search(rf'with step\(\s*"{step}",', (ROOT / f"workflow/lethe/steps/{step}.py").read_text())


def test_every_rule_that_runs_a_step_logs_and_names_its_environment() -> None:
    for rule in re.split(r"\n(?=rule |use rule )", RULES)[1:]:
        if "lethe.steps" in rule:
            name = rule.split(":")[0]
            for directive in ("log:", "conda:", "output:", "shell:"):
                assert f"    {directive}" in rule, f"{name} lacks {directive}"
            assert "    resources:" in rule or "    localrule: True" in rule, f"{name} lacks resources:"
            assert "        made_by=" in rule.split("    params:\n")[1], f"{name} needs made_by in its params"


def test_the_environment_is_pinned_where_it_says_so() -> None:
    environment = yaml.safe_load((ROOT / "envs/lethe.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.txt"]
    lines = [
        line for line in (ROOT / "envs/requirements.txt").read_text().splitlines() if line[:1] not in ("#", "-", "")
    ]
    assert len(lines) > 10
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", line) for line in lines)
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.+]+)$", (ROOT / "envs/constraints.txt").read_text(), re.MULTILINE))
    canonical = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for line in lines:
        name, version = re.sub(r"\[.*\]", "", line).split("==")
        assert canonical[name.lower().replace("_", "-")] == version


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    marked = re.findall(r"<!-- test command -->\n```bash\n(.+)\n```", readme)
    assert len(marked) == 1
    assert "pytest" in marked[0]
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text()


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [
        ROOT / name
        for name in ("README.md", "config/README.md", "results/README.md", "docs/benchmarks.md", "docs/cluster.md")
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"
