"""What files and model folders are, by their whole content, with hashes that are kept until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from lethe.bases.folder import loaded_files

KEPT = Path(".snakemake") / "hashes.json"  # the hashes of a working directory
FORMAT = 1  # of the file of kept hashes; one of another number is begun anew
_SETTLED = 2.0  # seconds: a file changed later than that before it was hashed may change again within one tick


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(folder: Path, hash_of: Callable[[Path], str] = sha256_of) -> str:
    """SHA-256 over the names and whole contents of a folder's files, links followed, hidden ones left out."""
    return _digest({path.relative_to(folder).as_posix(): hash_of(path) for path in _visible_files(folder)})


def fingerprint(
    folder: Path, *, variant: str | None = None, parts: str = "*", hash_of: Callable[[Path], str] = sha256_of
) -> str:
    """What a model's folder is: SHA-256 over the whole contents of the files that are loaded from it.

    Links are followed. The folder's own path, what lies beside (cards, pictures, weights of other variants) and the
    variant in a file's name do not count, so a copy, or what was downloaded of a hub id, is the same model. Of a
    pipeline `parts` picks components by a pattern such as `text_encoder*|tokenizer*`.

    Raises ValueError when there is no such model in the folder, OSError when a file cannot be read.
    """
    files = loaded_files(folder, variant=variant)
    patterns = parts.split("|")
    chosen = {name: p for name, p in files.items() if any(fnmatchcase(name.split("/")[0], part) for part in patterns)}
    return _digest({name: hash_of(path) for name, path in chosen.items()})


def text_fingerprint(folder: Path, *, variant: str | None = None, hash_of: Callable[[Path], str] = sha256_of) -> str:
    """Which text encoders a base has, in 16 hex digits: the same for bases that share them, whatever else they are."""
    return fingerprint(folder, variant=variant, parts="tokenizer*|text_encoder*", hash_of=hash_of)[:16]


class KeptHashes:
    """SHA-256 of files, kept in a JSON file: a file is read again only when it may have changed.

    A hash counts while path (links followed), size, inode and both times of the file are what they were: contents
    written over with the times put back change the second one (ctime) all the same. Hashes of files that had changed
    just before are not kept. Where the JSON file is damaged or cannot be written, files are read every time.
    """

    def __init__(self, path: Path, *, told: Callable[[str], None] = lambda sentence: None) -> None:
        """`path` of the JSON file; `told` is called with a sentence before a large file is read."""
        self.path, self.told = Path(path), told
        self._kept: dict[str, list] | None = None

    def __call__(self, path: Path) -> str:
        """Hex SHA-256 of a file's bytes. Raises OSError when it cannot be read."""
        real = os.path.realpath(path)
        found = Path(real).stat()
        state = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
        if self._kept is None:
            self._kept = self._read()
        if (known := self._kept.get(real)) and known[:-1] == state:
            return known[-1]
        if found.st_size > 1 << 30:
            self.told(f"reading {path} ({found.st_size / 1e9:.1f} GB) to know its content; kept until it changes")
        now = time.time()
        digest = sha256_of(Path(real))
        if max(found.st_mtime, found.st_ctime) < now - _SETTLED:
            self._keep(real, [*state, digest])
        return digest

    def _read(self) -> dict[str, list]:
        try:
            content = json.loads(self.path.read_bytes())
            kept = content["files"] if content["format"] == FORMAT else {}
            return {path: entry for path, entry in kept.items() if len(entry) == 5 and len(entry[-1]) == 64}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _keep(self, path: str, entry: list) -> None:
        self._kept = self._read() | self._kept | {path: entry}  # others may have written since
        if not self.path.parent.is_dir():
            return
        from lethe.files.whole import written_whole  # here, as it takes numpy and Pillow along

        try:
            with written_whole(self.path) as part:
                part.write_text(json.dumps({"format": FORMAT, "files": self._kept}, sort_keys=True), encoding="utf-8")
        except OSError:
            pass  # a folder of somebody else's, or a run beside this one that writes the same file


def _digest(hashes: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(hashes.items()):
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()


def _visible_files(folder: Path, above: tuple[str, ...] = ()) -> list[Path]:
    """The files under a folder, links followed, but for hidden ones and those in hidden folders."""
    above = (*above, os.path.realpath(folder))
    found = []
    for path in sorted(path for path in Path(folder).iterdir() if not path.name.startswith(".")):
        if path.is_file():
            found.append(path)
        elif path.is_dir() and os.path.realpath(path) not in above:  # a link back up has no end
            found += _visible_files(path, above)
    return found
