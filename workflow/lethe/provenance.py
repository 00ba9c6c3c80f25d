"""What made a file: content hashes, versions, and the library modules a step depends on."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parent
PACKAGES = ("torch", "diffusers", "transformers", "peft", "snakemake", "pandas", "clean-fid", "numpy")
_SAMPLED_ABOVE = 1 << 20
_SAMPLES, _BLOCK = 64, 4096


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path, parts: Sequence[str] = ("*",)) -> str:
    """A quick content hash of a model folder: small files whole, large ones by size and 64 blocks spread over them.

    Touching or copying a folder keeps it; training the weights again changes it. Hidden files and folders do not count,
    nor does what lies outside the subfolders that match one of the patterns `parts`, if given.
    """
    digest = hashlib.sha256()
    for path in _visible_files(folder):
        if not any(fnmatchcase(path.relative_to(folder).parts[0], part) for part in parts):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _SAMPLED_ABOVE:
                digest.update(file.read())
                continue
            for k in range(_SAMPLES):
                file.seek(k * (size - _BLOCK) // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def text_fingerprint(model: str, revision: str | None, variant: str | None = None) -> str:
    """Which text encoders a base has, in 16 hex digits: the same for bases that share them, whatever else they are.

    A folder counts by the content of its tokenizers and text encoders, a hub id by its name and revision; `variant`
    tells which of their weight files are read.
    """
    folder = Path(model)
    found = fingerprint(folder, ("tokenizer*", "text_encoder*")) if folder.is_dir() else f"{model}@{revision}"
    return hashlib.sha256(f"{found} {variant}".encode()).hexdigest()[:16]


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and whole contents of a folder's files."""
    digest = hashlib.sha256()
    for path in _visible_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\0".encode())
    return digest.hexdigest()


def _visible_files(folder: Path) -> list[Path]:
    """The files under a folder, but for hidden ones and those in hidden folders (the hub keeps times in `.cache`)."""
    paths = (p for p in Path(folder).rglob("*") if p.is_file())
    return sorted(p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts))


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


def as_header(record: dict) -> dict[str, str]:
    """A record as safetensors metadata (one JSON text under `lethe`)."""
    return {"lethe": json.dumps(record, sort_keys=True)}
