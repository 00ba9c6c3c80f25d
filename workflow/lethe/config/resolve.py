"""A configuration as the rules read it: overrides of the command line read as YAML, the chosen parts of a section."""

from __future__ import annotations

from typing import Any


def image_settings(images: dict, kind: str) -> dict:
    """How to draw training images of a kind, from the configuration's section `images`: with the one prompt of it."""
    return _of_all_kinds(images) | {"prompt": images["prompts"][kind]}


def anchor_image_settings(images: dict, kind: str) -> dict:
    """The same of images of an anchor; if anchors have prompts of their own, with these: a list or a template file."""
    own = images["anchor_prompts"][kind]
    return image_settings(images, kind) if own is None else _of_all_kinds(images) | {"prompts": own}


def _of_all_kinds(images: dict) -> dict:
    return {key: value for key, value in images.items() if key not in ("prompts", "anchor_prompts")}


def mask_settings(masks: dict, kind: str) -> dict:
    """How to find a concept of a kind, from the configuration's section `masks`: the chosen segmenter's keys alone.

    A style has no place in an image, so it gets the full frame, whatever the segmenter.
    """
    chosen = "full-frame" if kind == "style" else masks["segmenter"]
    if chosen == "full-frame":
        return {"segmenter": chosen}
    common = {"segmenter": chosen, "when_nothing_found": masks["when_nothing_found"], "prompt": masks["prompts"][kind]}
    return common | masks[chosen]


def read_overrides(config: dict, overrides: dict) -> None:
    """Read in place, as YAML does, what `--config` hands on as text below its first level: numbers, switches and null.

    `overrides` are the values of `--config` as Snakemake parses them: it keeps every value within a mapping or list as
    text, so that `methods={mace: {lamb: 0.5}}` could set no number.
    """
    for key, value in overrides.items():
        if isinstance(value, dict | list) and key in config:
            config[key] = _read_as_yaml(config[key], value)


def _read_as_yaml(held: Any, given: Any) -> Any:
    import yaml

    if isinstance(given, dict) and isinstance(held, dict):
        return held | {key: _read_as_yaml(held[key], part) for key, part in given.items() if key in held}
    if isinstance(given, list) and isinstance(held, list):
        return [_read_as_yaml(*pair) for pair in zip(held, given, strict=True)]
    if not isinstance(given, str) or given == "":
        return held
    try:
        read = yaml.safe_load(given)
    except yaml.YAMLError:
        return held
    return read if read is None or isinstance(read, bool | int | float) else held
