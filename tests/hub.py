"""A stand-in of the hub on this machine: what an upload asks of it, kept in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_standin"


@dataclass
class Hub:
    """Repositories by name: whether each is private, and its files. `asked` lists methods and paths, in order."""

    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, *files: str, private: bool = False) -> None:
        self.private[name], self.files[name] = private, dict.fromkeys(files, b"")


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers on this machine alone, until the block ends."""
    kept = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes | None) -> None:
            path = self.path.partition("?")[0]
            kept.asked.append(f"{self.command} {path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid credentials"})
                return
            name = "/".join(path.split("/")[3:5])
            match path.split("/")[2], *path.split("/")[5:]:
                case "repos", *_:
                    asked = json.loads(body or b"{}")
                    name = f"{asked.get('organization', 'owner')}/{asked['name']}"
                    private = asked.get("private") or asked.get("visibility") == "private"
                    kept.add(name, ".gitattributes", private=bool(private))
                    self._send(200, {"url": f"{kept.address}/{name}", "name": name, "id": name})
                case "validate-yaml", *_:
                    self._send(200, {"errors": [], "warnings": []})
                case "models", *_ if name not in kept.files:
                    self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                case "models", "preupload", _:
                    asked = json.loads(body or b"{}")["files"]
                    told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                    self._send(200, {"files": told})
                case "models", "commit", _:
                    for line in (body or b"").splitlines():
                        said = json.loads(line)
                        if said["key"] == "file":
                            kept.files[name][said["value"]["path"]] = base64.b64decode(said["value"]["content"])
                    url = f"{kept.address}/{name}/commit/{'a' * 40}"
                    self._send(200, {"success": True, "commitOid": "a" * 40, "commitUrl": url})
                case "models", *_:
                    files = [{"rfilename": file} for file in kept.files[name]]
                    about = {"_id": "1", "id": name, "sha": "b" * 40, "private": kept.private[name]}
                    self._send(200, about | {"siblings": files, "tags": []})
                case _:
                    self._send(404, {"error": "no such page"})

        def _send(self, status: int, content: dict, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
