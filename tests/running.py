"""Run the repository's Snakefile in a folder, as a person would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run snakemake with `folder` as working directory and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder), *arguments]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


def planned(output: str) -> dict[str, int]:
    """Jobs by rule from the table that a dry run prints."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE) if rule != "total"}
