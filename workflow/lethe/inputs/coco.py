"""COCO's annotation files: their captions, and rows to sample drawn from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.files.tables import read_json

if TYPE_CHECKING:
    import pandas as pd


def read_coco_captions(path: Path) -> list[str]:
    """The captions of a COCO annotation file (captions_*.json), in its order, without surrounding space.

    Raises ValueError, naming the file and the annotation, when it is no such file or a caption is empty.
    """
    return [annotation["caption"] for annotation in read_coco_annotations(path)]


def coco_rows(path: Path, *, rows: int, seed: int) -> pd.DataFrame:
    """Rows of a suite drawn from a COCO annotation file: columns type, prompt, evaluation_seed.

    One caption of each image, that with the lowest id, of the first `rows` images in an order that `seed` draws: by the
    SHA-256 of "<seed> <image id>". The image's id is the row's seed as well, and "coco" its type.
    Raises ValueError, naming the file, for what `read_coco_captions` refuses, an annotation without whole numbers as
    `image_id` and `id`, and fewer images than `rows`.
    """
    import pandas as pd

    first: dict[int, tuple[int, str]] = {}
    for number, annotation in enumerate(read_coco_annotations(path)):
        image, own = annotation.get("image_id"), annotation.get("id")
        if any(type(value) is not int or value < 0 for value in (image, own)):
            raise ValueError(f"{path}: annotation {number} has no whole numbers under 'image_id' and 'id'")
        if image not in first or own < first[image][0]:
            first[image] = own, annotation["caption"]
    if len(first) < rows:
        raise ValueError(
            f"{path}: it has captions of {len(first)} images, and {rows} rows are to be drawn; ask for fewer"
        )
    drawn = sorted(first, key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())[:rows]
    found = [("coco", first[image][1], image) for image in drawn]
    return pd.DataFrame(found, columns=["type", "prompt", "evaluation_seed"]).rename_axis("row")


def read_coco_annotations(path: Path) -> list[dict[str, Any]]:
    """The annotations of a COCO annotation file, in its order, each with a caption without surrounding space.

    Raises ValueError as `read_coco_captions` does.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; name a COCO caption file (captions_*.json)") from None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise ValueError(f"{path}: it has no list of annotations; name a COCO caption file (captions_*.json)")
    found = []
    for number, annotation in enumerate(annotations):
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        if not isinstance(caption, str):
            raise ValueError(
                f"{path}: annotation {number} has no text under 'caption'; name a COCO caption file (captions_*.json)"
            )
        if not caption.strip():
            raise ValueError(
                f"{path}: the caption of annotation {number} is empty; write one, or remove the annotation"
            )
        found.append(annotation | {"caption": caption.strip()})
    return found
