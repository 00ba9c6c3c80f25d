"""Generate training images of a concept, or of its anchor, with the base."""

from lethe.erasure.artefacts import draw_images
from lethe.files.shards import write_shard
from lethe.steps.job import Job
from lethe.steps.loading import pipeline_of

LESS_MEMORY = "images.batch"


def run(job: Job) -> None:
    settings = job.settings
    rows, images = draw_images(pipeline_of(job), settings.concept, settings.images, seed=settings.seed)
    write_shard(job.out["images"], rows, images)
