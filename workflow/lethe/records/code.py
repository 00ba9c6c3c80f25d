"""The code that makes a file: the modules that a step depends on, and a digest of what they do; versions."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import platform
import shutil
import subprocess
import tokenize
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parents[2]  # the folder of the packages
OWN = ("lethe", "emoji_world")
# What every job goes through and no result depends on: the frame of jobs, plans, records, the words of messages.
FRAME = (
    "lethe.steps.job",
    "lethe.steps.failures",
    "lethe.steps.gpus",
    "lethe.frame",
    "lethe.jobs",
    "lethe.records",
    "lethe.messages",
)
PACKAGES = ("torch", "diffusers", "transformers", "peft", "snakemake", "pandas", "clean-fid", "numpy")


@cache
def source_files(module: str) -> tuple[str, ...]:
    """Paths of a module of ours and of every one that it imports, directly or not, but for the frame; sorted.

    Imports are read from the source (inside functions too), nothing is executed. Raises ValueError when the module
    is not part of the library.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if path is None:
            if name == module:
                raise ValueError(f"source_files: `module` must be a module of {' or '.join(OWN)}; got {name!r}")
            continue
        if name in found or _is_frame(name):
            continue
        found[name] = path
        waiting += _imports(path)
    return tuple(sorted(str(path) for path in found.values()))


def _is_frame(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in FRAME)


@cache
def _imports(path: Path) -> list[str]:
    """Modules of ours that a file imports, and the names it takes from them, which may be modules too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in OWN]


def _path_of(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] not in OWN:
        return None
    path = LIBRARY.joinpath(*parts)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def code_hash(*modules: str) -> str:
    """SHA-256 over the `source_files` of some modules, by name, without comments and docstrings, wherever they lie."""
    digest = hashlib.sha256()
    for path in map(Path, sorted({path for module in modules for path in source_files(module)})):
        name = path.relative_to(LIBRARY).as_posix()
        digest.update(f"{name}\0{_bare_file(path)}\0".encode())
    return digest.hexdigest()


@cache
def _bare_file(path: Path) -> str:
    """The same of a file, read once: steps share most of their modules."""
    return bare(path.read_text(encoding="utf-8"))


def bare(source: str) -> str:
    """Python source without comments, docstrings, blank lines and space at the ends of lines; texts as they are."""
    lines = source.split("\n")  # as the tokenizer counts them; splitlines knows other ends
    inside, unfinished = set(), set()  # rows that begin, and rows that end, inside a text of several lines
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[first - 1] = lines[first - 1][:column]
        elif token.type not in (tokenize.NEWLINE, tokenize.NL):
            inside.update(range(first + 1, last + 1))
            unfinished.update(range(first, last))
    for first, last in _docstrings(source, lines):
        lines[first - 1 : last] = [""] * (last - first + 1)
        inside.difference_update(range(first, last + 1))
    kept = [(row, line) for row, line in enumerate(lines, start=1) if line.strip() or row in inside]
    return "\n".join(line if row in unfinished else line.rstrip() for row, line in kept)


def _docstrings(source: str, lines: list[str]) -> list[tuple[int, int]]:
    """First and last row of every statement that is a text alone and has its rows to itself; `lines` hold no comments.

    That is docstrings, those of names among them: wherever it stands such a statement does nothing.
    """
    found = []
    for text in ast.walk(ast.parse(source)):
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            before = lines[text.lineno - 1].encode()[: text.col_offset]  # ast counts bytes
            after = lines[text.end_lineno - 1].encode()[text.end_col_offset :]
            if not before.strip() and not after.strip():
                found.append((text.lineno, text.end_lineno))
    return found


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, and the processor."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": platform.python_version(), "machine": platform.machine(), **versions}


def python_problem(own: str) -> str | None:
    """Why the `python` on PATH, which runs the steps, cannot; None if it is that of the executable `own`, or can."""
    found = shutil.which("python")
    if found and Path(found).parent == Path(own).parent:
        return None
    lacking = "import sys, importlib.util as util; sys.exit(not all(map(util.find_spec, ('torch', 'diffusers'))))"
    if found and subprocess.run([found, "-c", lacking], capture_output=True).returncode == 0:
        return None
    where = f"{found} has no torch and diffusers" if found else "there is none"
    return f"the steps run `python` from PATH, and {where}; activate the environment of {own}, then run again"


def commit() -> str:
    """The commit this runs from, marked when files differ from it; for tables, as it changes with any commit."""
    command = ["git", "-C", str(LIBRARY), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
