"""What each edit of a table took, by the records of the jobs behind it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lethe.files.whole import written_whole
from lethe.records.costs import Cost
from lethe.records.records import place, read_record
from lethe.steps.job import Job


def run(job: Job) -> None:
    rows = []
    edits = zip(job.settings.edits, job.reads["edits"], job.settings.behind, strict=True)
    for (task, method, concepts), edit, behind in edits:
        row = {"edit": f"{task}/{method}", "concepts": concepts, "edit_mb": round(edit.stat().st_size / 1e6, 3)}
        unknown = [path for path in behind if not place(Path(path)).record.is_file()]
        if unknown:
            told = f"what {row['edit']} took is not known: {unknown[0]} has no record"
            job.note(1, told if len(unknown) == 1 else f"{told}, nor have {len(unknown) - 1} more")
        else:
            row |= taken(behind, edit, concepts)
        rows.append(row)
    with written_whole(job.out["costs"]) as part:
        pd.DataFrame(rows).to_csv(part, index=False, lineterminator="\n")


def taken(behind: Sequence[str], edit: Path, concepts: int) -> dict[str, float | int | str]:
    """What the jobs took that made some files, and that which made the edit by itself."""
    whole, own = Cost(), Cost()
    for path in map(Path, behind):
        run_of_job = read_record(place(path).record)["run"]
        whole.add(run_of_job)
        if path == edit:
            own.add(run_of_job)
    return {
        "jobs": whole.jobs,
        "seconds": round(whole.seconds, 1),
        "seconds_a_concept": round(whole.seconds / concepts, 1),
        "seconds_of_edit": round(own.seconds, 1),
        "cpu_seconds": round(whole.cpu_seconds, 1),
        "peak_mb": whole.peak_mb,
        "gpu": ", ".join(sorted(whole.gpu_seconds)),
    }
