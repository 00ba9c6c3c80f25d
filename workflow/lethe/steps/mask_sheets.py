"""Draw the outlines of the masks of a task's concepts on their training images, a picture for each concept's folder."""

from lethe.files.shards import read_cells, read_images
from lethe.files.whole import folder_written_whole
from lethe.pictures.contact_sheets import mask_sheet
from lethe.steps.job import Job


def run(job: Job) -> None:
    each = zip(job.settings.concepts, job.settings.segmenters, job.reads["images"], job.reads["masks"], strict=True)
    with folder_written_whole(job.out["sheets"]) as folder:
        for concept, segmenter, images, masks in each:
            rows = [int(row) for row in read_cells(masks, "row")]
            found = [int(count) for count in read_cells(masks, "found")]
            missed = found.count(0)
            note = f", not found in {missed} of {len(found)} images" if missed else ""
            mask_sheet(
                folder / f"{images.parent.name}.png",
                read_images(images, rows),
                [mask > 127 for mask in read_images(masks, rows)],
                found,
                title=f"{concept}: masks by {segmenter}{note}",
            )
