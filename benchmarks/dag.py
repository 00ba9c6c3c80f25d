"""What the workflow costs before any step runs: dry runs of large configurations, files per sample, idle jobs.

    python benchmarks/dag.py [--concepts 1000] [--jobs 10000] [--idle-jobs 5000]

Configurations are generated from config/config.yaml in a temporary folder: one task of many concepts; one suite of
100,000 rows in so many shards that sampling and measuring them with one edit makes the wanted number of jobs; and the
same suite in shards of the shipped size, whose files are counted. Idle jobs, when asked for, are a rule file of empty
outputs run for real under profiles/default, which measures Snakemake's scheduler alone.

The last line is a JSON object: for each run its jobs, wall-clock seconds and CPU seconds of all its processes (on a
busy machine the latter say more); beside a dry run the seconds of `bare`, one of as many jobs of a rule that has
nothing but an output; and `files`, those in results/ of 100,000 samples of one edit, but for their records.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness import ROOT
from lethe.config.schema import defaults_of

SAMPLES = 100_000
IDLE_RULES = """
rule all:
    input: expand("{{k}}.txt", k=range({jobs})),
    localrule: True
rule idle:
    output: "{{k}}.txt",
    shell: ": > {{output}}"
"""


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=1000, help="concepts of the task; 0 leaves this run out")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs of the sampling run; 0 leaves it out")
    parser.add_argument("--idle-jobs", type=int, default=0, help="empty jobs to run for real")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.concepts:
            config = base_config(folder, concepts=args.concepts)
            result["concepts"] = {"concepts": args.concepts} | dry_run(folder, config)
        if args.jobs:
            config = base_config(folder, concepts=1, rows=SAMPLES)
            shipped = defaults_of("sampling")["shard_size"]
            config["sampling"]["shard_size"] = -(-SAMPLES * 4 // args.jobs)  # sample, measure; the base and one edit
            result["jobs"] = dry_run(folder, config)
            config["sampling"]["shard_size"] = shipped
            result["files"] = {"shard_size": shipped, "files": files_of_samples(folder, config)}
        if args.idle_jobs:
            result["idle"] = idle_run(folder, args.idle_jobs, args.cores)
    print(json.dumps(result))


def base_config(folder: Path, *, concepts: int, rows: int = 80) -> dict:
    """The shipped configuration with one task of `concepts` concepts and a quality suite of `rows` rows."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    names = [f"thing {k}" for k in range(concepts)]
    table = folder / "concepts.tsv"
    table.write_text("".join(f"{line}\n" for line in ["concept\tkind\tanchor\tsynonyms", *map(concept_row, names)]))
    suite = folder / "captions.csv"
    suite.write_text("type,prompt,evaluation_seed\n" + "".join(f"photo,a photo number {k},{k}\n" for k in range(rows)))
    config["concepts"] = str(table)
    (task,) = config["tasks"].values()
    config["tasks"] = {"large": task | {"concepts": names}}
    config["suites"]["synonyms"] |= {"table": str(table), "seeds": [1, 1]}
    classes = folder / "classes.tsv"  # what is erased, and one thing that stays
    classes.write_text("".join(f"{line}\n" for line in ["object", *names, "calm"]))
    config["evaluations"][task["evaluation"]]["classes"]["table"] = str(classes)
    config["suites"]["objects"] |= {"table": str(classes), "seeds": [1, 1]}
    config["suites"][config["evaluations"][task["evaluation"]]["quality"]] = {"file": str(suite)}
    return config


def concept_row(name: str) -> str:
    """A row of the concept table."""
    return f"{name}\tobject\tground\tother {name}"


def dry_run(folder: Path, config: dict) -> dict[str, float]:
    """Plan a run of `config` in an empty working directory."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(absolute(config)), encoding="utf-8")
    work = folder / "work"
    taken = timed("-n", "--quiet", "rules", "--cores", "2", "-d", str(work), "--configfile", str(path))
    jobs = int(re.findall(r"^total +(\d+)$", taken.pop("output"), re.MULTILINE)[0])
    return taken | {"jobs": jobs, "bare": idle_run(folder, jobs, 2, "-n")}


def files_of_samples(folder: Path, config: dict) -> int:
    """How many files of the sampling suite's shards, samples and measures, one edit has."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(absolute(config)), encoding="utf-8")
    listed = timed("--summary", "--cores", "2", "-d", str(folder / "work"), "--configfile", str(path))["output"]
    evaluation = next(iter(config["evaluations"].values()))
    return len(re.findall(rf"^results/\S+/original/{re.escape(evaluation['quality'])}/\S+", listed, re.MULTILINE))


def absolute(value: object) -> object:
    """The configuration with paths inside the repository made absolute, since the working directory is elsewhere."""
    if isinstance(value, dict):
        return {key: absolute(part) for key, part in value.items()}
    if isinstance(value, str) and value.startswith(("resources/", "config/")):
        return str(ROOT / value)
    return value


def idle_run(folder: Path, jobs: int, cores: int, *arguments: str) -> dict[str, float]:
    """Run `jobs` jobs that do nothing under the default profile, or with `-n` plan them."""
    rules = folder / "Snakefile"
    rules.write_text(IDLE_RULES.format(jobs=jobs))
    work = ("-d", str(folder / "idle"), "--workflow-profile", str(ROOT / "profiles" / "default"))
    taken = timed("--quiet", "rules" if arguments else "all", "--cores", str(cores), *work, *arguments, snakefile=rules)
    taken.pop("output")
    return taken | {"jobs": jobs, "cores": cores}


def timed(*arguments: str, snakefile: Path = ROOT / "Snakefile") -> dict:
    """Run snakemake; its output, seconds and CPU seconds."""
    command = [sys.executable, "-m", "snakemake", "-s", str(snakefile), *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SLURM_CONF": os.devnull}  # no waiting for a SLURM that does not run
    wall, cpu = time.perf_counter(), children()
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    taken = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(children() - cpu, 1)}
    print(" ".join(arguments), taken, flush=True)
    return taken | {"output": run.stdout}


def children() -> float:
    """CPU seconds of the finished processes that this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
