"""What made a file: versions, and the library modules a step depends on."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from lethe.records.fingerprints import sha256_of

LIBRARY = Path(__file__).parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "peft", "snakemake", "pandas", "clean-fid", "numpy")


@cache
def source_files(module: str) -> tuple[str, ...]:
    """Paths of a library module and of every library module it imports, directly or not, sorted.

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
                raise ValueError(f"source_files: `module` must be a module of lethe; got {name!r}")
            continue
        if name in found:
            continue
        found[name] = path
        waiting += _imports(path)
    return tuple(sorted(str(path) for path in found.values()))


@cache
def _imports(path: Path) -> list[str]:
    """Modules of the library that a file imports, and the names it takes from them, which may be modules too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == LIBRARY.name]


def _path_of(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] != LIBRARY.name:
        return None
    path = LIBRARY.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def code_hash(module: str) -> str:
    """SHA-256 over names and contents of a module's `source_files`; the same wherever the library lies."""
    digest = hashlib.sha256()
    for path in map(Path, source_files(module)):
        digest.update(f"{path.relative_to(LIBRARY).as_posix()}\0{sha256_of(path)}\0".encode())
    return digest.hexdigest()


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
