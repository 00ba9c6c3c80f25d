"""The schema of one configuration: the frame, and what manifests say of the entries of plug-ins that it has."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lethe.messages import nearest, shown
from lethe.plugins import kinds, manifest

FRAME = Path(__file__).with_name("config.schema.yaml")
PLUGIN = "plug-in"  # the keyword of entries that a manifest describes
# Of a section whose entries have forms: the key that tells each form, in the order of the schema, and what it holds.
FORMS = {
    "suites": {"file": "rows", "table": "words for a prompt", "coco": "a COCO caption file"},
    "priors": {"file": "texts or names", "coco": "COCO caption files"},
}


class Found(NamedTuple):
    """A value of a configuration: its place, itself, what the schema says of it, and the mapping that holds it."""

    place: tuple
    value: Any
    rule: Mapping[str, Any]
    holder: Mapping[str, Any]


@cache
def frame() -> dict:
    """The schema as it is written, entries of plug-ins left open."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # some ten times as fast, where it is built
    return yaml.load(FRAME.read_text(encoding="utf-8"), loader)


def plugin_sections() -> dict[str, str]:
    """Sections whose entries are of a kind that is a plug-in, and the room of their plug-ins."""
    found = {}
    for name, section in frame()["properties"].items():
        if PLUGIN in (entry := section.get("additionalProperties") or {}):
            found[name] = entry[PLUGIN]
    return found


def kind_of(section: str, name: str, entry: Any) -> str | None:
    """The kind of an entry: what it says, or its own name where that is one; None where it is of no known kind."""
    known = kinds(plugin_sections()[section])
    said = entry.get("kind", name) if isinstance(entry, dict) else name
    return said if said in known else None


def schema_of(config: Any) -> dict:
    """The JSON schema of a configuration, with a description of each entry that it has."""
    schema = copy.deepcopy(frame())
    given = config if isinstance(config, dict) else {}
    for section, room in plugin_sections().items():
        entries = given.get(section)
        described = {
            name: _entry(room, name, kind_of(section, name, entry))
            for name, entry in (entries if isinstance(entries, dict) else {}).items()
            if isinstance(name, str)
        }
        schema["properties"][section] |= {"properties": described, "additionalProperties": False}
    tasks = schema["properties"]["tasks"]
    written = given.get("tasks")
    one = tasks["additionalProperties"]
    tasks["properties"] = {
        name: one | {"properties": one["properties"] | dict(_own_settings(given, task))}
        for name, task in (written if isinstance(written, dict) else {}).items()
        if isinstance(task, dict)
    }
    return schema


def _entry(room: str, name: str, kind: str | None) -> dict:
    """The schema of an entry of a kind; of one without a known kind, what asks for one."""
    said = {
        "kind": {
            "description": f"What it is, the name of a plug-in of {room}.",
            "enum": list(kinds(room)),
            **({"default": name} if name in kinds(room) else {}),
        }
    }
    if kind is None:
        return {"type": "object", "properties": said, "required": ["kind"]}
    settings = manifest(room, kind).settings
    required = [*settings["required"], *([] if name in kinds(room) else ["kind"])]
    return settings | {"properties": said | settings["properties"], "required": required}


def _own_settings(config: Mapping, task: Mapping) -> Iterator[tuple[str, dict]]:
    """What a task may say of its methods, beside its other keys."""
    methods, entries = task.get("methods"), config.get("methods")
    for name in methods if isinstance(methods, list) else ():
        entry = entries.get(name) if isinstance(entries, dict) else None
        if isinstance(name, str) and (kind := kind_of("methods", name, entry)):
            described = f"Settings of {name} for this task, where they differ."
            yield name, _without_defaults(manifest("methods", kind).settings) | {"description": described}


def _without_defaults(schema: Mapping) -> dict:
    """A schema of settings of which any may be left out and none is filled in."""
    found = {key: value for key, value in schema.items() if key != "default"} | {"required": []}
    found["properties"] = {
        name: _without_defaults(rule) if "properties" in rule else {k: v for k, v in rule.items() if k != "default"}
        for name, rule in schema["properties"].items()
    }
    return found


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with every key that has a default, and an entry for each kind that a task names by itself."""
    whole = copy.deepcopy(dict(config))
    methods = whole.setdefault("methods", {})
    for task in whole["tasks"].values():
        for name in task["methods"]:
            if name not in methods and name in kinds("methods"):
                methods[name] = {}
    for name in probes_named(whole):
        whole.setdefault("probes", {}).setdefault(name, {})
    _fill(whole, schema_of(whole), frame()["$defs"])
    return whole


def probes_named(config: Mapping[str, Any]) -> list[str]:
    """The kinds of probes that evaluations name by themselves."""
    evaluations = config.get("evaluations")
    found = []
    for evaluation in evaluations.values() if isinstance(evaluations, dict) else ():
        named = evaluation.get("probes") if isinstance(evaluation, dict) else None
        found += [name for name in named if name in kinds("probes")] if isinstance(named, list) else []
    return list(dict.fromkeys(found))


def _fill(value: Any, rule: Mapping[str, Any], defs: Mapping[str, Any]) -> None:
    """Add the defaults of a rule, and of all within it, to a mapping."""
    rule = _whole(rule, defs, value)
    if not isinstance(value, dict):
        return
    for key, inner in rule.get("properties", {}).items():
        if key not in value and "default" in inner:
            value[key] = copy.deepcopy(inner["default"])
        if key in value:
            _fill(value[key], inner, defs)
    more = rule.get("additionalProperties")
    for key in value.keys() - rule.get("properties", {}).keys() if isinstance(more, dict) else ():
        _fill(value[key], more, defs)


def walk(config: Any, schema: Mapping[str, Any]) -> Iterator[Found]:
    """Every value that the schema knows, with what it says of it; what has another shape is left out."""
    yield from _walk(config, schema, (), {}, frame()["$defs"])


def _walk(value: Any, rule: Mapping, place: tuple, holder: Mapping, defs: Mapping) -> Iterator[Found]:
    rule = _whole(rule, defs, value)
    yield Found(place, value, rule, holder)
    if isinstance(value, dict):
        known, more = rule.get("properties", {}), rule.get("additionalProperties")
        for key, inner in value.items():
            if found := known.get(key, more if isinstance(more, dict) else None):
                yield from _walk(inner, found, (*place, key), value, defs)
    elif isinstance(value, list) and "items" in rule:
        for index, inner in enumerate(value):
            yield from _walk(inner, rule["items"], (*place, index), holder, defs)


def _whole(rule: Mapping[str, Any], defs: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
    """A rule with what it refers to, and of several forms that which the keys of a value choose."""
    rule = followed(rule, defs)
    if "oneOf" in rule and isinstance(value, dict):
        forms = [_whole(form, defs, value) for form in rule["oneOf"]]
        fitting = [form for form in forms if form["required"][0] in value]
        return fitting[0] if len(fitting) == 1 else rule
    return rule


def followed(rule: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A rule with what it refers to."""
    if "$ref" not in rule:
        return rule
    return defs[rule["$ref"].rpartition("/")[2]] | {key: value for key, value in rule.items() if key != "$ref"}


def merged(files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Configurations put together: a later one's sections replace an earlier one's, of named entries each by itself.

    An entry is replaced whole: what it does not say is left out, and no key of an earlier file stays in it.
    """
    whole: dict[str, Any] = {}
    for content in files:
        for key, value in content.items():
            entries = isinstance(frame()["properties"].get(key, {}).get("additionalProperties"), dict)
            together = entries and isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = whole[key] | value if together else value
    return whole


def method_of(config: Mapping[str, Any], task: str, name: str) -> dict[str, Any]:
    """The settings of a method in a task of a whole configuration: the method's, and over them the task's own."""
    return over(config["methods"][name], config["tasks"][task].get(name, {}))


def over(settings: Any, own: Any) -> Any:
    """Settings with some of their own over them, at any depth."""
    if not isinstance(settings, dict) or not isinstance(own, dict):
        return own
    return settings | {key: over(settings.get(key), value) for key, value in own.items()}


def defaults_of(schema: str | Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The defaults of a section of the configuration, by its name, or of the settings of a manifest.

    What is `given` stands in their place; in groups of settings it may be a part of them.
    """
    found = copy.deepcopy(dict(given or {}))
    _fill(found, frame()["properties"][schema] if isinstance(schema, str) else schema, frame()["$defs"])
    return found


def unknown_kind(section: str, name: str, entry: Any) -> str:
    """A sentence about an entry that is of no known kind."""
    known = kinds(plugin_sections()[section])
    said = entry.get("kind") if isinstance(entry, dict) else None
    of = shown(said) if said is not None else f"nothing, and {shown(name)} is none itself"
    close = nearest(str(said if said is not None else name), known)
    hint = f"; did you mean {close}?" if close else "."
    return f"{section}.{name}: its kind must be one of {', '.join(known)}; got {of}{hint}"
