"""What can be configured, as a table for the documentation; what is configured, with where each value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lethe.config.schema import followed, frame, plugin_sections, with_defaults
from lethe.plugins import kinds, manifest

NO_DEFAULT = "required"


def tables_of_keys() -> str:
    """Every key with what it may be, its default and its meaning, in Markdown: the frame, then each plug-in."""
    parts = ["### The frame", "", *_table(_keys(frame(), ""))]
    for section, room in plugin_sections().items():
        for name in kinds(room):
            said = manifest(room, name)
            parts += ["", f"### {section}: {name}", "", said.about, ""]
            parts += _table(_keys(said.settings, f"{section}.<name>."))
    return "\n".join(parts) + "\n"


def resolved(config: Mapping[str, Any], source: str) -> Iterator[tuple[str, str, str]]:
    """(key, value as JSON, where it comes from) of every value that a run of a checked configuration would use.

    It comes from `source`, the file, or is the default of the schema or of a plug-in.
    """
    whole = with_defaults(config)
    given = dict(leaves(config))
    for key, value in leaves(whole):
        section, _, rest = key.partition(".")
        origin = source if key in given else "default"
        if origin == "default" and rest and section in plugin_sections():
            kind = whole[section][rest.split(".")[0]].get("kind")
            origin = f"default of {kind}"
        yield key, json.dumps(value, ensure_ascii=False), origin


def leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, by its dotted key; empty mappings too."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{place}.{key}" if place else str(key))
    elif place:
        yield place, node


def _table(rows: Iterator[tuple[str, str, str, str]]) -> list[str]:
    head = ["| key | values | default | meaning |", "|---|---|---|---|"]
    return head + [f"| `{key}` | {values} | {default} | {meaning} |" for key, values, default, meaning in rows]


def _keys(schema: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, str, str]]:
    defs, needed = frame()["$defs"], schema.get("required", ())
    for key, rule in schema["properties"].items():
        whole = followed(rule, defs)
        default = "" if "properties" in whole and "items" not in whole else NO_DEFAULT if key in needed else "left out"
        if "default" in whole and not isinstance(whole["default"], dict):
            default = f"`{json.dumps(whole['default'], ensure_ascii=False)}`"
        yield f"{place}{key}", _values(whole), default, whole["description"]
        if "properties" in whole:
            yield from _keys(whole, f"{place}{key}.")
        more = whole.get("additionalProperties")
        for form in more.get("oneOf", [more]) if isinstance(more, dict) else ():
            entry = followed(form, defs)
            if "properties" in entry:
                yield from _keys(entry, f"{place}{key}.<name>.")


def _values(rule: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "entry-of" in rule:
        kind = f" of the kind {rule['of-kind']}" if "of-kind" in rule else ""
        return f"an entry of {rule['entry-of']}{kind}{', or null' if 'null' in rule.get('type', ()) else ''}"
    if "enum" in rule:
        return " or ".join("null" if option is None else f"`{option}`" for option in rule["enum"])
    return rule.get("title", "").replace("|", "\\|")
