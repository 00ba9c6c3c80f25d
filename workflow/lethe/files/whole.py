"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` if the block ends well, remove it if not.

    Whoever was killed while it wrote the same file left its part behind, which is removed first. Should it be at work
    after all, on a node given up for dead or for a run that was killed, it finds its part gone and raises
    FileNotFoundError: the last to begin writes the file. An error on the way gets a note that names the file.
    """
    with _moved_into_place(Path(path)) as part:
        yield part


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; move it to `path` if the block ends well, remove it if not.

    Raises ValueError when `path` is there already and is anything but an empty folder. What is left of a writer that
    was killed is removed, as in `written_whole`.
    """
    path = Path(path).absolute()
    if path.is_symlink():
        raise ValueError(f"{path}: it is a link; name the folder to write itself")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: it is there already; name a folder that does not exist or is empty")
    with _moved_into_place(path) as part:
        part.mkdir()
        yield part


@contextmanager
def _moved_into_place(path: Path) -> Iterator[Path]:
    """Yield a name for the unfinished file or folder; move what is there to `path`, or remove it."""
    part = _part_beside(path)
    try:
        yield part
        _move(part, path)
    except Exception as error:
        error.add_note(f"while writing {path}")
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files of this process lack; the system tells it only while setting another."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _part_beside(path: Path) -> Path:
    """A new name for the unfinished file or folder, in the same folder; those that others left there are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = "[0-9a-f]" * 8
    for left in path.parent.glob(f".{glob.escape(path.name)}.{token}.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    # Not the process id: processes on two nodes, or in two containers, may have the same.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _move(part: Path, path: Path) -> None:
    if not part.exists():
        raise FileNotFoundError(f"{path}: nothing was written, or another process began to write it in the meantime")
    if part.is_file():
        part.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner may read
    part.replace(path)
