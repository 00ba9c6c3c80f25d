"""Find the concept in its training images."""

import numpy as np

from lethe.erasure.masks import concept_masks
from lethe.files.shards import read_images, read_rows, write_shard
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, images = job.settings, job.read("images")
    rows = read_rows(images)
    masks, found = concept_masks(
        read_images(images), settings.concept, settings.masks, device=job.device, numbers=rows.index
    )
    write_shard(job.out["masks"], rows.assign(found=found), [mask.astype(np.uint8) * 255 for mask in masks])
