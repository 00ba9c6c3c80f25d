"""Find the concept in its training images."""

import numpy as np

from lethe.bases.devices import pick_device
from lethe.erasure.masks import concept_masks
from lethe.files.shards import read_images, read_rows, write_shard
from lethe.steps.job import step, use_threads

if __name__ == "__main__":
    with step("masks", __doc__, inputs=["images"], outputs=["masks"]) as args:
        use_threads(args.threads)
        settings, rows = args.settings, read_rows(args.images)
        masks, found = concept_masks(
            read_images(args.images),
            settings.concept["name"],
            settings.masks,
            device=pick_device(settings.device),
            numbers=rows.index,
        )
        write_shard(args.out_masks, rows.assign(found=found), [mask.astype(np.uint8) * 255 for mask in masks])
