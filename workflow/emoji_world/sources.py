"""Fetch emoji sets as npm packages in Iconify format, each checked against its published integrity."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path


def fetch_collections(sources: dict[str, dict[str, str]], folder: Path) -> None:
    """Write `<name>.json` into `folder` for each source `{name: {package, integrity}}`, using the `npm` command.

    Raises ValueError, naming the package, when the downloaded archive is not the one the integrity describes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        with tempfile.TemporaryDirectory() as scratch:
            command = ["npm", "pack", source["package"], "--pack-destination", scratch, "--silent"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            (archive,) = Path(scratch).glob("*.tgz")
            found = integrity_of(archive)
            if found != source["integrity"]:
                raise ValueError(
                    f"fetch_collections: {source['package']} has integrity {found}, expected {source['integrity']}; "
                    "check the version in config/emoji_world.yaml"
                )
            with tarfile.open(archive) as tar:
                (folder / f"{name}.json").write_bytes(tar.extractfile("package/icons.json").read())


def integrity_of(path: Path) -> str:
    """The npm integrity string (base64 SHA-512) of a file."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
