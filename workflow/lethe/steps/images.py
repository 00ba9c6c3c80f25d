"""Generate training images of a concept, or of its anchor, with the base."""

from lethe.erasure.artefacts import draw_images
from lethe.files.shards import write_shard
from lethe.inputs.templates import read_templates
from lethe.steps.job import Job
from lethe.steps.loading import offload_parts, pipeline_of

LESS_MEMORY = "images.batch"


def run(job: Job) -> None:
    settings = job.settings
    own = {"prompts": read_templates(job.read("prompts"))} if "prompts" in job.reads else {}
    pipeline = pipeline_of(job, draws=True)
    offload_parts(pipeline, job)
    rows, images = draw_images(pipeline, settings.concept, settings.images | own, seed=settings.seed)
    write_shard(job.out["images"], rows, images)
