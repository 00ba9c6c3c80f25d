"""Fetch COCO's annotations, check them, keep the captions."""

import tempfile
from pathlib import Path

from lethe.files.downloads import download, extract
from lethe.steps.job import Job


def run(job: Job) -> None:
    source, train, val = job.settings, job.out["train"], job.out["val"]
    train.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=train.parent) as scratch:
        archive = Path(scratch) / "annotations.zip"
        found = download(source.url, archive, source.sha256)
        extract(archive, {f"annotations/{path.name}": path for path in (train, val)})
    job.write_json("record", {"url": source.url, "sha256": found})
