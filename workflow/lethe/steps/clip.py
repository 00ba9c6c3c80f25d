"""Embed the images and prompts of a shard with the evaluation CLIP."""

from lethe.bases import pick_device
from lethe.files import image_name, read_rows
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.measures.table import write_measure
from lethe.steps.arguments import step, use_threads

if __name__ == "__main__":
    with step("clip", __doc__, inputs=["shard"], outputs=["measure"]) as args:
        use_threads(args.threads)
        judge = load_judge(**args.settings.clip, device=pick_device(args.settings.device), key="clip.model")
        rows = read_rows(args.shard)
        images = image_embeddings(judge, args.shard, [image_name(row) for row in rows.index])
        write_measure(args.out_measure, rows, image=images, text=text_embeddings(judge, list(rows["prompt"])))
