"""Run the repository's Snakefile in a folder, as a person would; play a host that it fetches from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]


def snakemake(
    folder: Path,
    *arguments: str,
    rules: Path = ROOT / "Snakefile",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run snakemake in the repository, with `folder` as working directory, and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "-s", str(rules), "-d", str(folder), *arguments]
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    variables = os.environ | path | dict(environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=3600)


def planned(output: str) -> dict[str, int]:
    """Jobs by rule from the table that a dry run prints."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE) if rule != "total"}


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a local HTTP server that lives while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with mock.patch.dict(os.environ, no_proxy="127.0.0.1"):
            yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
