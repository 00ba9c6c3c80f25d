"""Files from elsewhere, each checked against its SHA-256 before anything uses it."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lethe.files.whole import written_whole

log = logging.getLogger(__name__)

_BLOCK = 1 << 20


def download(url: str, path: Path, sha256: str | None) -> str:
    """Fetch `url` to `path`, whole or not at all, and return the hex SHA-256 of what came.

    Raises ValueError, naming the URL, when it cannot be fetched, ends early, or is not what `sha256` says; None accepts
    any content.
    """
    log.info("fetching %s", url)
    digest, size = hashlib.sha256(), 0
    with written_whole(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as source, part.open("wb") as file:
                announced = source.headers.get("Content-Length")
                while block := source.read(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"{url}: it could not be fetched ({error})") from None
        if announced is not None and size != int(announced):
            raise ValueError(f"{url}: the connection ended after {size} of {announced} bytes; run again")
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise ValueError(f"{url}: its SHA-256 is {found}, not {sha256}; what is there is not what was expected")
    log.info("%s: %d bytes, SHA-256 %s", url, size, found)
    return found


def extract(archive: Path, members: Mapping[str, Path]) -> None:
    """Write members of a zip archive, by their names in it, to paths, each whole or not at all.

    Raises ValueError, naming archive and member, when it is no zip archive or lacks one.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, path in members.items():
                with written_whole(path) as part, opened.open(member) as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{archive.name}: {error.args[0]}") from None
