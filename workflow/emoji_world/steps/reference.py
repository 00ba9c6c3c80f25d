"""Write the reference set of the emoji world."""

from safetensors.numpy import load_file

from emoji_world.reference import write_reference
from emoji_world.renders import Variation
from emoji_world.world import read_world
from lethe.steps.job import Job


def run(job: Job) -> None:
    icons, budget = load_file(job.read("icons"))["icons"], job.settings
    write_reference(
        icons,
        read_world(job.read("objects").parent),
        budget.images,
        seed=budget.seed,
        variation=Variation(**budget.variation),
        folder=job.out["folder"],
    )
