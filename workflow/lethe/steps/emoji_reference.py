"""Write the reference set of the emoji world."""

from safetensors.numpy import load_file

from lethe.embedded.reference import write_reference
from lethe.embedded.renders import Variation
from lethe.embedded.world import read_world
from lethe.steps.job import step

if __name__ == "__main__":
    with step("emoji_reference", __doc__, inputs=["world", "icons"], outputs=["folder"]) as args:
        icons, budget = load_file(args.icons)["icons"], args.settings
        write_reference(
            icons,
            read_world(args.world),
            budget.images,
            seed=budget.seed,
            variation=Variation(**budget.variation),
            folder=args.out_folder,
        )
