"""Priors: the texts whose meaning an edit preserves, from caption files, COCO annotations, or names in templates."""

from __future__ import annotations

from pathlib import Path

from lethe.files.tables import read_texts
from lethe.inputs.coco import read_coco_captions
from lethe.inputs.templates import fill, read_templates
from lethe.inputs.words import chosen_words


def prior_texts(prior: dict) -> list[str]:
    """The texts of a prior as configured (`priors.<name>`), repetitions included.

    Either the captions of the files `coco`; or the texts of `file` (of its `column`, if it is a table; of the `words`
    from the first to the last that they name), each put into every one of `templates` (a template file, or the prompts
    themselves) where there are any.
    Raises ValueError, naming file and place, for what `read_coco_captions`, `read_texts`, `chosen_words` or
    `read_templates` refuses.
    """
    if "coco" in prior:
        return [caption for path in prior["coco"] for caption in read_coco_captions(Path(path))]
    texts = chosen_words(read_texts(Path(prior["file"]), prior.get("column")), prior.get("words"), prior["file"])
    templates = prior.get("templates", ["{}"])
    if isinstance(templates, str):
        templates = read_templates(Path(templates))
    return [fill(template, text) for text in texts for template in templates]


def prior_files(prior: dict) -> list[str]:
    """The files that `prior_texts` reads."""
    named = [*prior.get("coco", ()), prior.get("file"), prior.get("templates")]
    return [path for path in named if isinstance(path, str)]
