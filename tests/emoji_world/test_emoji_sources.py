"""Fetching emoji sets: by an `npm` that is not there, checked against the published integrity."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from emoji_world.sources import fetch_collections, integrity_of

# SHA-512 of "abc", FIPS 180-4.
ABC = (
    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
)


def archive_of(icons: dict) -> bytes:
    buffer, content = io.BytesIO(), json.dumps(icons).encode()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in [("package/package.json", b"{}"), ("package/icons.json", content)]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, str]]:
    """Two sources, and a `subprocess.run` that packs them as npm does."""
    archives = {"@set/a@1.0.0": archive_of({"prefix": "a"}), "b@2": archive_of({"prefix": "b"})}

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        assert command[:2] == ["npm", "pack"]
        assert options["check"]
        if command[2] not in archives:
            raise subprocess.CalledProcessError(1, command, stderr="404 Not Found")
        folder = Path(command[command.index("--pack-destination") + 1])
        (folder / "set-1.tgz").write_bytes(archives[command[2]])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    sources = {}
    for name, (package, content) in zip("ab", archives.items(), strict=True):
        (tmp_path / "packed").write_bytes(content)
        sources[name] = {"package": package, "integrity": integrity_of(tmp_path / "packed")}
    return sources


def test_integrity_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert integrity_of(tmp_path / "abc") == "sha512-" + base64.b64encode(bytes.fromhex(ABC)).decode()


def test_collections_are_unpacked(npm: dict, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "collections"
    fetch_collections(npm, folder)
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert found == {"a.json": {"prefix": "a"}, "b.json": {"prefix": "b"}}


def test_another_archive_than_the_published_one_is_refused(npm: dict, tmp_path: Path) -> None:
    found, expected = npm["b"]["integrity"], "sha512-" + "A" * 86 + "=="
    npm["b"]["integrity"] = expected
    with pytest.raises(ValueError, match="fetch_collections: b@2 has integrity") as error:
        fetch_collections(npm, tmp_path / "collections")
    assert f"has integrity {found}, expected {expected}; check the version in config/emoji_world.yaml" in str(
        error.value
    )
    assert not (tmp_path / "collections" / "b.json").exists()


def test_a_package_that_is_not_there_is_an_error(npm: dict, tmp_path: Path) -> None:
    npm["a"]["package"] = "nothing@1"
    with pytest.raises(subprocess.CalledProcessError):
        fetch_collections(npm, tmp_path / "collections")
    assert list((tmp_path / "collections").iterdir()) == []
