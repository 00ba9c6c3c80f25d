"""Priors: the texts whose meaning an edit preserves, from caption files, COCO annotations, or names in templates."""

from __future__ import annotations

from pathlib import Path

from lethe.files.tables import read_json, read_texts
from lethe.inputs.templates import fill, read_templates


def prior_texts(prior: dict) -> list[str]:
    """The texts of a prior as configured (`priors.<name>`), repetitions included.

    Either the captions of the files `coco`; or the texts of `file` (of its `column`, if it is a table), each put into
    every one of `templates` (a template file, or the prompts themselves) where there are any.
    Raises ValueError, naming file and place, for what `read_coco_captions`, `read_texts` or `read_templates` refuses.
    """
    if "coco" in prior:
        return [caption for path in prior["coco"] for caption in read_coco_captions(Path(path))]
    texts, templates = read_texts(Path(prior["file"]), prior.get("column")), prior.get("templates", ["{}"])
    if isinstance(templates, str):
        templates = read_templates(Path(templates))
    return [fill(template, text) for text in texts for template in templates]


def prior_files(prior: dict) -> list[str]:
    """The files that `prior_texts` reads."""
    named = [*prior.get("coco", ()), prior.get("file"), prior.get("templates")]
    return [path for path in named if isinstance(path, str)]


def read_coco_captions(path: Path) -> list[str]:
    """The captions of a COCO annotation file (captions_*.json), in its order, without surrounding space.

    Raises ValueError, naming the file and the annotation, when it is no such file or a caption is empty.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; name a COCO caption file (captions_*.json)") from None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise ValueError(f"{path}: it has no list of annotations; name a COCO caption file (captions_*.json)")
    captions = []
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
        captions.append(caption.strip())
    return captions
