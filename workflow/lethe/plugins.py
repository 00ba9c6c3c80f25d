"""Plug-ins: a module and a manifest of one name in the folder of their kind, found by that name and listed nowhere.

A name may have a '-', as negative-prompt; its module or package then has a '_', its manifest keeps the name.

A manifest says what the workflow must know without importing torch: what the plug-in is, what it reads, what it asks of
a machine, and its settings with type, default and meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LIBRARY = Path(__file__).parent
ROOMS = ("methods", "measures", "tables", "probes")


@dataclass(frozen=True)
class Manifest:
    """What a plug-in says of itself.

    about: what it is, with its source.  reads: artefacts that its jobs read, by the names of the plan.  asks: `mb` of
    memory, `minutes`, `gpu`.  settings: the JSON schema of its entry in the configuration, defaults within.  more: what
    only its kind of plug-in has.
    """

    room: str
    name: str
    about: str
    reads: Sequence[str]
    asks: Mapping[str, int]
    settings: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module that holds its functions; where the name has a '-' it has a '_'."""
        return f"lethe.{self.room}.{_spelt(self.name)}"

    def entries_of(self, section: str) -> list[str]:
        """The settings that name an entry of a section of the configuration."""
        return [key for key, rule in self.settings["properties"].items() if rule.get("entry-of") == section]

    def of_type(self, name: str) -> list[str]:
        """The settings of a type of the configuration's schema."""
        return [key for key, rule in self.settings["properties"].items() if rule.get("$ref") == f"#/$defs/{name}"]


@cache
def kinds(room: str) -> tuple[str, ...]:
    """The plug-ins of a room: every manifest `NAME.yaml` there, or `NAME/NAME.yaml` of a package; sorted."""
    paths = [*(LIBRARY / room).glob("*.yaml"), *(LIBRARY / room).glob("*/*.yaml")]
    return tuple(sorted(path.stem for path in paths if path.parent.name in (room, _spelt(path.stem))))


@cache
def manifest(room: str, name: str) -> Manifest:
    """Read a manifest.

    Raises ValueError, naming the file, when a key is missing or unknown, or there is no such plug-in.
    """
    folder = LIBRARY / room
    path = next((p for p in (folder / f"{name}.yaml", folder / _spelt(name) / f"{name}.yaml") if p.is_file()), None)
    if path is None:
        raise ValueError(f"there is no {name}.yaml in {folder}; its plug-ins are {', '.join(kinds(room))}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        about, settings = content.pop("about"), content.pop("settings")
        asks = {"mb": 4000, "minutes": 30, "gpu": 0} | content.pop("asks", {})
        return Manifest(
            room, name, about, tuple(content.pop("reads", ())), asks, section(settings, f"{path}: settings"), content
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: this is no manifest of a plug-in ({error!r}); see docs/add-a-method.md") from None


def _spelt(name: str) -> str:
    """A plug-in's name as Python can import it."""
    return name.replace("-", "_")


def section(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The JSON schema of settings as a manifest writes them.

    Each is `{is: TYPE, default: ..., means: ...}` with a type of the configuration's schema; `{one-of: [...]}`;
    `{entry-of: SECTION}`; `{entries-of: SECTION}`, a list of them; or a group of further `{settings: ...}`. To an entry
    and a group `or-null: true` may be added, and such a group has a default.
    One that names a file says `file: KIND`, and may say `from`, where it can be had; of a folder (`file: folder`)
    `holds` names the files that it must have, and that count.
    """
    properties, required = {}, []
    for name, said in settings.items():
        said = dict(said)
        described = {"description": said.pop("means")}
        if "default" in said:
            described["default"] = said.pop("default")
        elif "settings" not in said:
            required.append(name)
        if "settings" in said:
            group = section(said.pop("settings"), f"{where}.{name}")
            needed = group["required"] and "default" not in described
            properties[name] = ({} if needed else {"default": {}}) | described | group
            if said.pop("or-null", False):
                properties[name] |= {"type": ["object", "null"], "title": "keys and values, or null for none"}
            required += [name] if needed else []
        elif "one-of" in said:
            properties[name] = described | {"enum": said.pop("one-of")}
        elif "entry-of" in said:
            kind = "text_or_null" if said.pop("or-null", False) else "text"
            properties[name] = described | {"$ref": f"#/$defs/{kind}", "entry-of": said.pop("entry-of")}
            properties[name] |= {"of-kind": said.pop("of-kind")} if "of-kind" in said else {}
        elif "entries-of" in said:
            several = {"$ref": "#/$defs/text", "entry-of": said.pop("entries-of")}
            title = f"a list of at least one entry of {several['entry-of']}, each named once"
            listed = {"title": title, "type": "array", "minItems": 1, "uniqueItems": True, "items": several}
            properties[name] = described | listed
        else:
            properties[name] = described | {"$ref": f"#/$defs/{said.pop('is')}"}
        for keyword in ("file", "from", "holds", "columns", "model"):
            if keyword in said:
                properties[name][keyword] = said.pop(keyword)
        if said:
            raise ValueError(f"{where}.{name}: {', '.join(said)} is not known in a manifest; see docs/add-a-method.md")
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
