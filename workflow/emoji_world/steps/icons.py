"""Fetch the emoji sets from the npm registry, check them, render every object in every style."""

from safetensors.numpy import save_file

from emoji_world.renders import render_icons
from emoji_world.sources import fetch_collections
from emoji_world.world import read_world
from lethe.files.whole import written_whole
from lethe.steps.job import Job


def run(job: Job) -> None:
    fetch_collections(job.settings.collections, job.out["collections"])
    with written_whole(job.out["icons"]) as part:
        save_file({"icons": render_icons(read_world(job.read("objects").parent), job.out["collections"])}, part)
