"""Generate a concept's training images with the base."""

import pandas as pd

from lethe.bases.sampling import sample_rows
from lethe.files.shards import write_shard
from lethe.inputs.templates import fill
from lethe.steps.job import step, use_threads
from lethe.steps.loading import pipeline_of

if __name__ == "__main__":
    with step("images", __doc__, outputs=["images"], less="images.batch") as args:
        use_threads(args.threads)
        settings, images = args.settings, args.settings.images
        name, kind = settings.concept["name"], settings.concept["kind"]
        seeds = range(settings.seed, settings.seed + images["count"])
        rows = pd.DataFrame({"type": name, "prompt": fill(images["prompts"][kind], name), "evaluation_seed": seeds})
        pipeline = pipeline_of(settings, scheduler=images["scheduler"])
        sampled = sample_rows(pipeline, rows, steps=images["steps"], guidance=images["guidance"], batch=images["batch"])
        write_shard(args.out_images, rows, sampled)
