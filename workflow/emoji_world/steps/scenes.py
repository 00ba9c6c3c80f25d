"""Draw a set of scenes: the pipeline's, or one of a judge's own."""

from safetensors.numpy import load_file, save_file

from emoji_world.scenes import Mixture, Variation, make_scenes
from emoji_world.world import read_world
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings = job.settings
    scenes = make_scenes(
        read_world(job.read("objects").parent),
        load_file(job.read("icons"))["icons"],
        settings.pictures,
        seed=settings.seed,
        variation=Variation(**settings.variation),
        mixture=Mixture(**settings.mixture),
        ghosts=settings.ghosts,
    )
    with written_whole(job.out["scenes"]) as part:
        save_file(vars(scenes), part)
