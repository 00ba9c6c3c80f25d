"""Run `python -m snakemake` as a fork of a process that has imported it: a plan of a second costs three of imports.

What Lethe starts jobs from (`lethe.frame.start`) does this as well. It lives as long as the process in `LETHE_WARM`.
"""

from __future__ import annotations

import os
import sys

from lethe.frame.start import WARM, end, run_warm

MODULES = [
    "numpy",
    "pandas",
    "jsonschema",
    "yaml",
    "snakemake.cli",
    "snakemake.api",
    "snakemake.workflow",
    "snakemake.executors.local",
]

if __name__ == "__main__":
    code = run_warm("snakemake", sys.argv[1:], owner=int(os.environ[WARM]), modules=tuple(MODULES))
    if code is None:
        os.execv(sys.executable, [sys.executable, "-m", "snakemake", *sys.argv[1:]])
    end(code)
