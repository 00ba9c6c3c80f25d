"""Embed the images and prompts of a shard with the evaluation CLIP."""

from lethe.devices import pick_device
from lethe.files import image_name, read_rows
from lethe.measures.clip import image_embeddings, load_judge, text_embeddings
from lethe.measures.table import write_measure
from lethe.steps.arguments import step, use_threads
from lethe.text import count_cut

if __name__ == "__main__":
    with step("clip", __doc__, inputs=["shard"], outputs=["measure"]) as args:
        use_threads(args.threads)
        settings = args.settings
        judge = load_judge(
            settings.clip["model"], settings.clip["revision"], device=pick_device(settings.device), key="clip.model"
        )
        rows = read_rows(args.shard)
        if cut := count_cut([judge.tokenizer], list(rows["prompt"])):
            window = judge.tokenizer.model_max_length
            told = f"prompts are longer than the {window} tokens that {settings.clip['model']} reads"
            args.also_recorded["notes"] = [(cut, f"{{}} {told}: CLIP scores are of their beginnings")]
        images = image_embeddings(judge, args.shard, [image_name(row) for row in rows.index])
        write_measure(args.out_measure, rows, image=images, text=text_embeddings(judge, list(rows["prompt"])))
