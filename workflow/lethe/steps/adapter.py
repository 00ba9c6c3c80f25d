"""Train what a method makes of one concept by itself."""

from lethe.files.tensors import write_tensors
from lethe.inputs.concepts import Concept
from lethe.steps.edit import base_of, given_to, method_of, workspace
from lethe.steps.job import Job


def run(job: Job) -> None:
    concept, base, out = Concept(**job.settings.concept), base_of(job), job.out["adapter"]
    given, reads = given_to(job, [concept])
    record = job.record()
    with workspace(out, record) as checkpoints:
        tensors, curve = method_of(job).train_adapter(base, concept, given, reads, checkpoints)
        write_tensors(out, tensors, record)
        job.write_curve("curve", curve)
