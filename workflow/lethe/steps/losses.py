"""Draw the training losses of a task's LoRAs."""

import pandas as pd

from lethe.pictures.figures import loss_curves
from lethe.steps.job import step

if __name__ == "__main__":
    with step("losses", __doc__, lists=["curves"], outputs=["figure"]) as args:
        settings = args.settings
        curves = {
            name: pd.read_csv(path, index_col="step")["loss"]
            for name, path in zip(settings.concepts, args.curves, strict=True)
        }
        loss_curves(args.out_figure, curves, title=f"LoRA training, {len(curves)} concepts, running mean of 10 steps")
