"""Records of what made each file under a results folder, kept beside the files, and files that differ from theirs.

A record holds what a file's own header may not, because it differs from run to run: when, where, how long.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lethe.records.code import commit, environment
from lethe.records.fingerprints import content_hash, sha256_of

log = logging.getLogger(__name__)

RESULTS, FOLDER = "results", "provenance"
FORMAT = 1  # of a record; a reader refuses a number it does not know
_KEYS = {"step": str, "settings": dict, "inputs": dict, "outputs": dict, "environment": dict, "run": dict}


class Place(NamedTuple):
    """Where a path lies: its results folder, and its path below that one."""

    results: Path
    below: str

    @property
    def name(self) -> str:
        """What records call the path."""
        return f"{RESULTS}/{self.below}"

    @property
    def record(self) -> Path:
        """Where its record is."""
        return self.results / FOLDER / f"{self.below}.json"


def place(path: Path) -> Place | None:
    """Where a path lies; None outside a results folder, and for a record.

    The results folder is that of the working directory or, for a path elsewhere, the innermost one above it.
    """
    whole = _whole(path)
    own = Path.cwd() / RESULTS
    above = whole.parents
    results = own if own in above else next((folder for folder in above if folder.name == RESULTS), None)
    if results is None or whole.relative_to(results).parts[0] == FOLDER:
        return None
    return Place(results, whole.relative_to(results).as_posix())


def name_of(path: Path) -> str:
    """What records call a path: `results/...` in a results folder, relative in the working directory, else whole."""
    if found := place(path):
        return found.name
    whole = _whole(path)
    return (whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole).as_posix()


def _whole(path: Path) -> Path:
    """The path from the root; links are not followed, as a results folder may be one to another disk."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def hash_of(path: Path) -> str:
    """Hex SHA-256 of a file, or of the names and contents in a folder."""
    return content_hash(path) if Path(path).is_dir() else sha256_of(path)


def read_record(path: Path) -> dict:
    """Read a record. Raises ValueError, naming it, when it is not whole or of another version of Lethe."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = record["format"] == FORMAT and all(isinstance(record[key], kind) for key, kind in _KEYS.items())
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: this is no record that this version of Lethe reads; delete it to go on without it")
    return record


def read_records(results: Path) -> Iterator[tuple[str, dict]]:
    """Every record of a results folder, with the path, below the folder, of the file that it is about.

    Raises ValueError when there is none, or one cannot be read.
    """
    for path in record_paths(results):
        yield path.relative_to(results / FOLDER).as_posix().removesuffix(".json"), read_record(path)


def record_paths(results: Path, *, missing_ok: bool = False) -> list[Path]:
    """Paths of all records of a results folder. Raises ValueError when there is none, unless that is `missing_ok`."""
    found = sorted(
        Path(folder) / name
        for folder, _, names in os.walk(results / FOLDER)
        for name in names
        if name.endswith(".json") and not name.startswith(".")
    )
    if not found and not missing_ok:
        raise ValueError(f"{results}: there are no records in {FOLDER}/; name the results folder of a run of Lethe")
    return found


def checked_inputs(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each input by its path, once it is what its record says; without a record anything is.

    Raises ValueError when an input is missing, and when some differ from their records. Those are renamed first, so
    that the next run makes them anew.
    """
    hashes, aside = {}, {}
    for path in dict.fromkeys(paths):
        try:
            hashes[path] = hash_of(path)
        except FileNotFoundError:
            raise ValueError(_missing(path)) from None
        if (expected := recorded_hash(path)) and expected != hashes[path]:
            aside[path] = _set_aside(path)
    if aside:
        raise ValueError(_damaged(aside))
    return hashes


def recorded_hash(path: Path) -> str | None:
    """SHA-256 of a file as its record says it; None without a record that can be read."""
    found = place(path)
    if found is None or not found.record.is_file():
        return None
    try:
        return read_record(found.record)["outputs"].get(found.name)
    except ValueError as error:
        log.warning("%s (%s is used unchecked)", error, path)
        return None


def forget(outputs: Iterable[Path]) -> None:
    """Remove the records of files that are about to be made again: a file is never beside another one's record."""
    for found in filter(None, map(place, outputs)):
        found.record.unlink(missing_ok=True)


def write_records(
    step: str,
    settings: Mapping,
    *,
    inputs: Mapping[Path, str],
    outputs: Iterable[Path],
    threads: int,
    more: Mapping[str, object],
    code: str,
    made_by: str | None = None,
) -> None:
    """Write the record of a step that has just made `outputs`: one for each that lies in a results folder.

    `inputs` are the SHA-256 of what it read, `code` that of what it ran; `made_by` is the digest that decides whether
    the outputs are current (`lethe.records.rerun_notes`). `more` is what only some steps record.
    """
    made = [found for found in map(place, outputs) if found]
    if not made:
        return
    from lethe.files.whole import written_whole  # here, as it takes numpy and Pillow along

    record = {
        "format": FORMAT,
        "step": step,
        "settings": dict(settings),
        "threads": threads,
        "made_by": made_by,
        "inputs": {name_of(path): digest for path, digest in inputs.items()},
        "outputs": {found.name: hash_of(found.results / found.below) for found in made},
        "code": code,
        "environment": environment(),
        **more,
        "run": _this_run(),
    }
    text = json.dumps(record, indent=1) + "\n"
    for found in made:
        with written_whole(found.record) as part:
            part.write_text(text, encoding="utf-8")


def what_made(step: str, settings: Mapping[str, object], *, code: str, **more: object) -> dict[str, object]:
    """What made an output, as its own header or file says it: step, settings, digest of the code, versions, and `more`.

    No clock, no host, no commit: the same settings, inputs and code give the same text.
    """
    return {"step": step, "settings": dict(settings), "code": code, "environment": environment(), **more}


def workspace_of(made: Mapping[str, object], folder: Path) -> Path:
    """The folder for checkpoints of what is made just so (`what_made`); other settings, inputs or code have another."""
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return folder / digest[:16]


def notes(outputs: Iterable[Path]) -> list[str]:
    """What the jobs that made some files had to say to whoever reads the results, each thing once, from their records.

    A step notes `(count, sentence)`, the sentence with `{}` for the count. Counts of files in one folder, as a suite's
    shards are, add up; of several such folders, which tell of the same suite, the largest stands.
    """
    counts: dict[str, Counter] = {}
    for path in outputs:
        found = place(path)
        if found is None or not found.record.is_file():
            continue
        try:
            noted = read_record(found.record).get("notes", [])
        except ValueError:
            continue
        for count, sentence in noted:
            counts.setdefault(sentence, Counter())[str(Path(path).parent)] += count
    told = ((sentence, max(folders.values())) for sentence, folders in counts.items())
    return [
        sentence.replace("{}", str(count), 1) if sentence.startswith("{}") else sentence for sentence, count in told
    ]


def verify(results: Path) -> tuple[int, list[str], list[str]]:
    """Compare every file that has a record with it: how many are as recorded, which are damaged, which are missing.

    The lists say each file in a few words. Nothing is changed. Raises ValueError when there is no record.
    """
    good, damaged, missing = 0, [], []
    for record in record_paths(results):
        below = record.relative_to(results / FOLDER).as_posix().removesuffix(".json")
        path = results / below
        try:
            expected = read_record(record)["outputs"][f"{RESULTS}/{below}"]
        except (ValueError, KeyError):
            damaged.append(f"{record}: this record cannot be read")
            continue
        try:
            found = hash_of(path)
        except FileNotFoundError:
            missing.append(str(path))
        except OSError as error:
            damaged.append(f"{path}: {error.strerror}")
        else:
            if found == expected:
                good += 1
            else:
                damaged.append(f"{path}: its content is not what was recorded when it was made")
    return good, damaged, missing


def _missing(path: Path) -> str:
    """Why a step cannot go on without an input."""
    found = place(path)
    if found is None:
        return f"{path}: there is no such file; correct its path in the configuration, or put it back"
    aside = path.with_name(f"{path.name}.damaged")
    why = f"it was damaged and is now {aside}" if aside.exists() else "it was there when this run was planned"
    return f"{path}: this file is missing ({why}); run snakemake again to make it anew"


def _set_aside(path: Path) -> str:
    """Rename a damaged file or folder, and say what became of it."""
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged{number}")
    try:
        path.rename(target)
    except FileNotFoundError:  # of two jobs that read the same file, the other one was first
        return "another job has just renamed it"
    except OSError as error:
        return f"it could not be renamed ({error.strerror}), so delete it yourself"
    return f"it is now {target}"


def _damaged(aside: Mapping[Path, str]) -> str:
    """What to do about files that differ from their records, given what became of each."""
    first, *others = aside.items()
    told = "".join(f"; so is {path}: {what}" for path, what in others)
    record = Path(os.path.relpath(place(first[0]).record))
    return (
        f"{first[0]}: its content is not what was recorded when it was made, and {first[1]}{told}; run snakemake again "
        f"to make it anew, or, if you put it there yourself, move it back, delete its record {record}, and run again"
    )


def _this_run() -> dict:
    """What differs from run to run of the same job."""
    seconds, times = _age(), os.times()
    return {
        "host": platform.node(),
        "gpu": _gpu(),
        "started": datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(times.user + times.system + times.children_user + times.children_system, 2),
        "peak_mb": round(_peak() / (1 << 20)),
        "commit": commit(),
    }


def _gpu() -> str | None:
    """The GPU whose memory this process has used, if any; without importing torch for it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    used = [number for number in range(cuda.device_count()) if cuda.max_memory_reserved(number)]
    return ", ".join(map(cuda.get_device_name, used)) or None


def _peak() -> int:
    """The most memory that this process has held at once, in bytes."""
    try:
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(kilobytes) << 10
    except (OSError, ValueError):
        # Next best: on Linux it starts from what the process held that started this one.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def _age() -> float:
    """Seconds since this process started, the time that Python and its imports took included."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name before may hold spaces
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        import psutil  # in every environment with Snakemake; on Linux it knows the start to a second only

        return time.time() - psutil.Process().create_time()
