"""Write what the emoji world is evaluated with: reference captions and pictures, and who is erased or kept."""

from safetensors.numpy import load_file

from emoji_world.reference import write_groups, write_reference
from emoji_world.scenes import Mixture, Variation
from emoji_world.world import read_world
from lethe.steps.job import Job


def run(job: Job) -> None:
    settings, world = job.settings, read_world(job.read("objects").parent)
    write_reference(
        load_file(job.read("icons"))["icons"],
        world,
        job.out["folder"],
        captions=settings.captions,
        images=settings.images,
        seed=settings.seed,
        variation=Variation(**settings.variation),
        mixture=Mixture(**settings.mixture),
    )
    write_groups(world, job.out["folder"])
