"""Downloads: what arrives whole and as expected is kept, anything else leaves nothing behind and says why."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lethe.files.downloads import download, extract
from running import served

CONTENT = bytes(range(256)) * 9000  # more than two blocks


class Handler(BaseHTTPRequestHandler):
    """A host with a file, one that breaks off, one without a length, and nothing else."""

    def do_GET(self) -> None:
        if self.path not in ("/whole", "/short", "/unmeasured"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unmeasured":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:-7] if self.path == "/short" else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with served(Handler) as url:
        yield url


@pytest.mark.parametrize("name", ["whole", "unmeasured"])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_comes_whole_with_its_hash(host: str, tmp_path: Path, name: str, known: bool) -> None:
    path, sha256 = tmp_path / "new" / "file", hashlib.sha256(CONTENT).hexdigest()
    assert download(f"{host}/{name}", path, sha256 if known else None) == sha256
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_here_already_is_taken_by_its_file_url(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(CONTENT)
    download((tmp_path / "here").as_uri(), tmp_path / "copy", None)
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "words"),
    [
        ("/whole", "0" * 64, f"/whole: its SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}, not {'0' * 64}; what is"),
        ("/short", None, f"/short: the connection ended after {len(CONTENT) - 7} of {len(CONTENT)} bytes; run again"),
        ("/absent", None, "/absent: it could not be fetched (HTTP Error 404"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(
    host: str, tmp_path: Path, path: str, sha256: str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        download(host + path, tmp_path / "file", sha256)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not be fetched") as refused:
        download("http://127.0.0.1:9/x", tmp_path / "file", None)
    assert re.fullmatch(r"http://127\.0\.0\.1:9/x: it could not be fetched \(.+\)", str(refused.value))


def test_extract_writes_the_members_that_are_asked_for(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("in/a", "in/b", "in/c"):
            archive.writestr(name, CONTENT + name.encode())
    extract(tmp_path / "a.zip", {"in/c": tmp_path / "out" / "c", "in/a": tmp_path / "out" / "d"})
    assert (tmp_path / "out" / "c").read_bytes() == CONTENT + b"in/c"
    assert (tmp_path / "out" / "d").read_bytes() == CONTENT + b"in/a"
    assert len(list((tmp_path / "out").iterdir())) == 2
    with pytest.raises(ValueError, match=r"a\.zip: There is no item named 'in/z'"):
        extract(tmp_path / "a.zip", {"in/z": tmp_path / "z"})
    (tmp_path / "b.zip").write_bytes(CONTENT)
    with pytest.raises(ValueError, match=r"b\.zip: File is not a zip file"):
        extract(tmp_path / "b.zip", {"in/a": tmp_path / "z"})
    assert not (tmp_path / "z").exists()
