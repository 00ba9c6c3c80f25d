"""Find the concept in its training images."""

import numpy as np

from lethe.bases import pick_device
from lethe.files import read_images, read_rows, write_shard
from lethe.masks import full_frames, segment
from lethe.steps.arguments import read_arguments, use_threads

if __name__ == "__main__":
    args = read_arguments(__doc__, inputs=["images"], outputs=["masks"])
    use_threads(args.threads)
    settings, masks = args.settings, args.settings.masks
    name, kind = settings.concept["name"], settings.concept["kind"]
    images = read_images(args.images)
    if kind == "style" or masks["segmenter"] == "full-frame":
        found = full_frames(images)
    else:
        import torch
        from transformers import CLIPImageProcessor, CLIPSegForImageSegmentation, CLIPTokenizer

        found = segment(
            CLIPSegForImageSegmentation.from_pretrained(masks["model"], use_safetensors=True, dtype=torch.float32)
            .to(pick_device(settings.device))
            .eval(),
            CLIPTokenizer.from_pretrained(masks["model"]),
            CLIPImageProcessor.from_pretrained(masks["model"]),
            images,
            name,
            threshold=masks["threshold"],
        )
    write_shard(args.out_masks, read_rows(args.images), [mask.astype(np.uint8) * 255 for mask in found])
