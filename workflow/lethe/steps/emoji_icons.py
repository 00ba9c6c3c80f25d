"""Fetch the emoji sets from the npm registry, check them, render every object in every style."""

from safetensors.numpy import save_file

from lethe.embedded.renders import render_icons
from lethe.embedded.sources import fetch_collections
from lethe.embedded.world import read_world
from lethe.files.whole import written_whole
from lethe.steps.job import step

if __name__ == "__main__":
    with step("emoji_icons", __doc__, inputs=["world"], outputs=["collections", "icons"]) as args:
        fetch_collections(args.settings.collections, args.out_collections)
        with written_whole(args.out_icons) as part:
            save_file({"icons": render_icons(read_world(args.world), args.out_collections)}, part)
