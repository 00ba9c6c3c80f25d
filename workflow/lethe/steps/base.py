"""Record what a base is: its kind, its size and its content's fingerprint."""

from lethe.bases.pipeline import describe
from lethe.steps.job import Job
from lethe.steps.loading import folder_of


def run(job: Job) -> None:
    base = job.settings.base
    folder_of(base)
    about = describe(base["model"], base["revision"], variant=base["variant"], key=f"bases.{base['name']}.model")
    job.write_json("record", base | about)
