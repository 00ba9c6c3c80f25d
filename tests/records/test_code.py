"""Provenance: hashes that follow content and nothing else, and the modules that a step's result depends on."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tokenize
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import ROOT
from lethe.records import code as provenance
from lethe.records.code import bare, code_hash, commit, environment, python_problem, source_files

LIBRARY = ROOT / "workflow"
STEPS = sorted(
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    for path in LIBRARY.glob("*/steps/*.py")
    if path.stem not in ("__init__", "job", "failures", "gpus")
)

FRAME = ("lethe/steps/job", "lethe/steps/failures", "lethe/steps/gpus", "lethe/frame/")
FRAME += ("lethe/jobs", "lethe/records/", "lethe/messages")


def names(module: str) -> set[str]:
    return {Path(path).relative_to(LIBRARY / "lethe").as_posix() for path in source_files(module)}


# Modules


def test_texts_depend_on_suites_and_files_and_not_on_lora() -> None:
    found = names("lethe.steps.texts")
    assert {
        "steps/texts.py",
        "inputs/suites.py",
        "files/tables.py",
        "inputs/templates.py",
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
def test_a_step_names_the_modules_that_importing_it_loads_but_for_the_frame(step: str) -> None:
    ours = ("lethe", "emoji_world")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in ours}
    try:
        importlib.import_module(step)
    finally:
        fresh = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in ours}
        sys.modules.update(kept)
    loaded = {Path(module.__file__).relative_to(LIBRARY).as_posix() for module in fresh.values()}
    derived = {Path(path).relative_to(LIBRARY).as_posix() for path in source_files(step)}
    frame = {path for path in loaded if path.startswith(FRAME)}
    assert not derived & frame
    # what only the frame and packages import comes along with them
    with_frame = {path for path in loaded - derived - frame if "__init__" not in path}
    allowed = [f"lethe/{name}.py" for name in ("files/whole", "files/tables", "bases/folder", "inputs/hub", "plugins")]
    packages = {name.replace(".", "/") for name in fresh if f"{name.replace('.', '/')}/__init__.py" in loaded - derived}
    of_packages = {
        Path(path).relative_to(LIBRARY).as_posix() for name in packages for path in source_files(name.replace("/", "."))
    }
    assert with_frame <= {*allowed, *of_packages}
    for path in derived - loaded:  # imported inside a function, or for types alone
        module = Path(path).with_suffix("").as_posix().replace("/", ".")
        assert any(f"{module} import" in Path(LIBRARY, user).read_text() for user in derived), path


def test_the_frame_of_a_step_is_no_part_of_its_code() -> None:
    assert not any(path.startswith(FRAME) for path in map(str, names("lethe.steps.sample")))
    source = (LIBRARY / "lethe" / "steps" / "sample.py").read_text()
    assert "from lethe.steps.job import Job" in source


def test_imports_inside_functions_count() -> None:
    assert "bases/pipeline.py" in names("lethe.steps.base")


def test_source_files_are_sorted_and_each_is_there_once() -> None:
    found = source_files("lethe.steps.lora")
    assert list(found) == sorted(set(found))
    assert all(Path(path).is_file() for path in found)


@pytest.mark.parametrize("module", ["lethe.nothing", "torch", "lethe_other", "lethe.steps.nothing"])
def test_a_module_of_others_is_refused(module: str) -> None:
    with pytest.raises(
        ValueError, match=f"source_files: `module` must be a module of lethe or emoji_world; got '{module}'"
    ):
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


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A copy of the library, whose code is the one that counts."""
    shutil.copytree(LIBRARY / "lethe", tmp_path / "lethe", ignore=shutil.ignore_patterns("__pycache__"))
    here = code_hash("lethe.steps.moments")
    monkeypatch.setattr(provenance, "LIBRARY", tmp_path)
    forget()
    assert code_hash("lethe.steps.moments") == here
    yield tmp_path / "lethe"
    forget()


def forget() -> None:
    for function in (source_files, code_hash, provenance._imports, provenance._bare_file):
        function.cache_clear()


def after(path: Path, change: Callable[[str], str], *modules: str) -> str:
    """The digest of some modules once a file of the library has changed."""
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    forget()
    return code_hash(*modules)


def test_code_hash_follows_the_modules_of_a_step_and_no_others(library: Path) -> None:
    here = code_hash("lethe.steps.moments")
    for path in ("erasure/masks.py", "records/records.py", "messages.py", "steps/job.py", "jobs.py"):
        assert after(library / path, lambda text: f"{text}\nof_others = 1\n", "lethe.steps.moments") == here
    prompts = library / "bases/prompts.py"
    assert after(prompts, lambda text: f"{text}\nchanged = 1\n", "lethe.steps.moments") != here


def test_one_plugin_is_no_part_of_anothers_code(library: Path) -> None:
    of_mace = code_hash("lethe.steps.images", "lethe.methods.mace.join")
    assert of_mace != code_hash("lethe.steps.images")
    assert after(library / "tables/objects.py", str.upper, "lethe.steps.images", "lethe.methods.mace.join") == of_mace
    change = after(library / "methods/mace/join.py", lambda text: f"{text}\nchanged = 1\n", "lethe.steps.images")
    assert change == code_hash("lethe.steps.images")
    assert code_hash("lethe.steps.images", "lethe.methods.mace.join") != of_mace


def test_comments_docstrings_and_blank_lines_are_no_part_of_the_code(library: Path) -> None:
    here = code_hash("lethe.steps.moments")
    for path in library.rglob("*.py"):
        text = path.read_text()
        text = re.sub(r'^( *)"""', r'\1"""Another word. ', text, count=1, flags=re.MULTILINE)
        path.write_text(f"# a comment\n{text}\n\n# and another\n")
    forget()
    assert code_hash("lethe.steps.moments") == here


def test_a_text_that_is_a_statement_of_its_own_is_no_code() -> None:
    """So names are documented. It says nothing in a function either; a text that is part of a statement stays."""
    named = 'Network = int\n"""What is called as one."""\n\n\ndef f():\n    x = 1\n    "a word"\n    return x\n'
    assert bare(named) == bare("Network = int\ndef f():\n    x = 1\n    return x\n")
    for told in ('x = """a word"""', 'f("a word")', 'x = 1; "a word"', 'return_ = ("a word")'):
        assert "a word" in bare(f"{told}\n")


@given(
    st.lists(
        st.sampled_from(
            [
                "x = 1",
                "x = '#no comment'  # a comment",
                "def f():",
                "    return 1",
                "    '''A docstring'''",
                "",
                "# alone",
                "y = f'{x}#{x}'",
                'z = """a',
                '# of a text"""',
                "class A:",
                "    b = 2",
            ]
        )
    )
)
@example(['z = """a', "", '# of a text"""'])
@example(['z = """a', "x = '#no comment'  # a comment", '# of a text"""'])
@example(['z = f"""a  ', "{1}", "  ", '{2}"""  # a comment'])
@example(["z = '\u2028'  # a comment", "y = 2  # another"])
@example(["def f(): '''A docstring'''; return 1"])
@example(["def f():", "    '''A docstring''' # with a comment", "    return 1"])
@example(["def f():", "    '''A docstring", "", "    of two lines'''", "    return 1"])
@example(["def f():", "    return 1", "    '''A docstring'''"])
def test_bare_source_means_the_same(lines: list[str]) -> None:
    source = "\n".join(lines)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    found = bare(source)
    undocumented = ast.unparse(WithoutDocstrings().visit(tree))
    try:
        assert ast.unparse(WithoutDocstrings().visit(ast.parse(found))) == undocumented
        assert not any(
            token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(found).readline)
        )
    except SyntaxError:  # a definition that was a docstring and nothing more
        assert "pass" in undocumented


class WithoutDocstrings(ast.NodeTransformer):
    """Definitions and modules without their docstrings, nor other statements that are a text, which mean as little."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            body = [one for one in node.body if not (isinstance(one, ast.Expr) and _is_text(one.value))]
            node.body = body or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        return node


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


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
