"""Snakemake's notes of how it made files, made again from the records beside the files where they are lost or older.

Snakemake compares a job with its own notes in `.snakemake` and takes a file without one for current, whatever settings
it was made with. The records travel with the results, so they decide.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lethe.records.records import FOLDER, RESULTS, read_record, record_paths

UNKNOWN = "no record says how this file was made"


def renew_notes(results: Path, notes: Path) -> list[str]:
    """Give Snakemake a note of every file in `results` whose record is newer than the note in `notes`, or has none.

    `notes` is Snakemake's folder, `.snakemake`. Returns what there is to say about it: how many notes were made, and
    which files nobody knows the making of, in sentences. A record of an earlier Lethe, which does not say by what its
    file was made, leads to a note that fits no plan, so the file is made again.
    """
    from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
    from snakemake.persistence.file import FilePersistence

    if not results.is_dir():
        return []
    had_notes = any((notes / "metadata").glob("*"))
    kept = None
    renewed = 0
    for path in record_paths(results, missing_ok=True):
        below = path.relative_to(results / FOLDER).as_posix().removesuffix(".json")
        if not (results / below).exists():
            continue
        kept = kept or FilePersistence(path=notes)
        if _current(Path(kept._record_path(str(notes / "metadata"), f"{RESULTS}/{below}")), path):
            continue
        try:
            record = read_record(path)
        except ValueError:
            record = {"inputs": {}}
        made_by = record.get("made_by") or UNKNOWN
        checksums = {name: f"sha256:{digest}" for name, digest in record["inputs"].items()}
        note = MetadataRecord(
            record_format_version=RECORD_FORMAT_VERSION, params=[repr(made_by)], input_checksums=checksums
        )
        kept._write_record(f"{RESULTS}/{below}", note)
        renewed += 1
    told = []
    if renewed:
        files = "a file" if renewed == 1 else f"{renewed} files"
        told.append(f"Snakemake's notes of {files} in {results} were missing or older: made again from the records.")
    if not had_notes and (unknown := files_without_record(results)):
        first = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        told.append(
            f"Neither Snakemake's notes nor records say how {first} were made, so they count as current whatever the "
            "configuration says; run with --forceall to make them anew, or delete them."
        )
    return told


def files_without_record(results: Path) -> Sequence[str]:
    """Files in a results folder that have no record, nor has a folder that they lie in; hidden ones left out."""
    found = []
    for folder, folders, names in os.walk(results):
        below = Path(folder).relative_to(results)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".parts")
            and (below / name).as_posix() != FOLDER
            and not (results / FOLDER / below / f"{name}.json").is_file()
        )
        found += [
            f"{RESULTS}/{(below / name).as_posix()}"
            for name in sorted(names)
            if not name.startswith(".")
            and (below / name).as_posix() != "README.md"
            and not (results / FOLDER / below / f"{name}.json").is_file()
        ]
    return found


def _current(note: Path, record: Path) -> bool:
    try:
        return note.stat().st_mtime_ns >= record.stat().st_mtime_ns
    except FileNotFoundError:
        return False
