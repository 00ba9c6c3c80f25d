"""Fetch the I2P prompts and check them."""

from lethe.files.downloads import download
from lethe.steps.job import Job


def run(job: Job) -> None:
    source = job.settings
    found = download(source.url, job.out["prompts"], source.sha256)
    job.write_json("record", {"url": source.url, "sha256": found})
