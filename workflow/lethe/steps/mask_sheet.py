"""Draw the outlines of a concept's masks on its training images."""

from lethe.contact_sheets import mask_sheet
from lethe.files import read_cells, read_images
from lethe.steps.arguments import step

if __name__ == "__main__":
    with step("mask_sheet", __doc__, inputs=["images", "masks"], outputs=["sheet"]) as args:
        rows = [int(row) for row in read_cells(args.masks, "row")]
        found = [int(count) for count in read_cells(args.masks, "found")]
        missed = found.count(0)
        note = f", not found in {missed} of {len(found)} images" if missed else ""
        mask_sheet(
            args.out_sheet,
            read_images(args.images, rows),
            [mask > 127 for mask in read_images(args.masks, rows)],
            found,
            title=f"{args.settings.concept}: masks by {args.settings.segmenter}{note}",
        )
