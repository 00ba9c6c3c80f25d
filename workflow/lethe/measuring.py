"""`lethe measure`: the numbers of any folder or zip of images, by the measures of the workflow."""

from __future__ import annotations

import argparse
import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe import __version__
from lethe.config.checks import check_settings
from lethe.config.keys import leaves
from lethe.config.schema import followed, frame
from lethe.inputs.pictures import Pictures, called, pictures_in
from lethe.jobs import spelled
from lethe.messages import plain
from lethe.plugins import kinds, manifest
from lethe.tables.sets import COMMANDS, Command, Number, command_of

if TYPE_CHECKING:
    import pandas as pd

PLACE = "setting."  # before the dotted key of a setting, in parsed arguments
HEADER = ("number", "value", "95 % interval", "n", "protocol")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give `lethe measure` a command for each measure, with the settings of its manifest, and for what joins measures.

    Raises ValueError for a measure whose setting has the name of an option of all.
    """
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name in sorted({*kinds("measures"), *COMMANDS}):
        command = command_of(name)
        one = commands.add_parser(name, help=command.about, description=command.about, allow_abbrev=False)
        for place in command.sets:
            one.add_argument(place, type=Path, metavar=place.upper(), help="a folder or zip of PNG and JPEG images")
        if len(command.sets) == 1:
            told = "a table with the columns file and prompt; by default prompts are those of a shard's rows, of what "
            told += "`lethe sample` writes, or of names such as 'a cat_3.png'"
            one.add_argument("--prompts", type=Path, metavar="FILE", help=told)
        one.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:1")
        one.add_argument("--out", type=Path, metavar="FILE", help="a CSV to write, with what is measured of each image")
        one.add_argument("--json", action="store_true", help="print the numbers, settings and versions as JSON")
        for schema in (command.options, manifest("measures", command.measure).settings):
            for key, rule, needed in _leaves(schema):
                _add_setting(one, command.measure, key, rule, needed)
        one.set_defaults(run=_run, command=name)


def _leaves(
    schema: Mapping[str, Any], place: str = "", told: str = ""
) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Every setting that is no group: its dotted key, what the schema says of it, and whether it must be given.

    Descriptions of groups stand before those of what is in them.
    """
    for key, rule in schema["properties"].items():
        whole = followed(rule, frame()["$defs"])
        whole = whole | {"description": told + whole["description"]}
        if "properties" in whole:
            yield from _leaves(whole, f"{place}{key}.", f"{whole['description']} ")
        else:
            yield f"{place}{key}", whole, key in schema["required"]


def _add_setting(
    parser: argparse.ArgumentParser, measure: str, key: str, rule: Mapping[str, Any], needed: bool
) -> None:
    option = "--" + key.replace("_", "-").replace(".", "-")
    told = rule["description"] + ("" if needed else f" By default {json.dumps(rule['default'])}.")
    try:
        parser.add_argument(
            option,
            dest=PLACE + key,
            required=needed,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            type=lambda text: _value(text, rule),
            help=told.replace("%", "%%"),
        )
    except argparse.ArgumentError:
        told = f"{option} is an option of every measure; give the setting {key} of its manifest another name"
        raise ValueError(f"the measure {measure} cannot be a command: {told}") from None


def _value(text: str, rule: Mapping[str, Any]) -> Any:
    """What an argument says, by the type of its setting; a text that cannot be of that type as it is."""
    if "enum" in rule:
        return next((option for option in rule["enum"] if str(option) == text), text)
    if "string" in (wanted := rule.get("type", ())) and not ("null" in wanted and text == "null"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _run(args: argparse.Namespace) -> None:
    from lethe.bases.devices import pick_device
    from lethe.files.shards import check_images
    from lethe.steps.measure import notes_of

    command = command_of(args.command)
    said = manifest("measures", command.measure)
    settings, options = (check_settings(of, _given(args, of)) for of in (said.settings, command.options))
    if args.out is not None and args.out.exists():
        raise ValueError(f"{args.out} is there already; name another file")
    sets = {place: getattr(args, place) for place in command.sets}
    table = getattr(args, "prompts", None)
    found = {place: pictures_in(path, table, prompts=command.prompts) for place, path in sets.items()}
    for place, parts in found.items():
        _check_count(args.command, command, sets[place], sum(len(part.names) for part in parts))
        for part in parts:
            check_images(part.archive, part.names)
    module = importlib.import_module(said.module)
    model = module.load(settings, pick_device(args.device))
    columns = {place: _measured(module, model, parts) for place, parts in found.items()}
    counts = Counter()
    for part in (part for parts in found.values() for part in parts):
        for count, sentence in notes_of(module, model, part.rows):
            counts[sentence] += count
    notes = [sentence.replace("{}", str(count)) for sentence, count in counts.items() if count]
    numbers = command.numbers(*columns.values(), _behind(said.name, settings, sets), **options)
    if args.out is not None:
        _write(args.out, sets, found, columns)
    about = {
        "command": args.command,
        "measure": said.name,
        "settings": settings | options,
        "sets": {p: _set(sets[p], parts) for p, parts in found.items()},
    }
    if args.json:
        print(json.dumps(about | {"numbers": [_told(one) for one in numbers], "notes": notes} | _made_by(), indent=2))
        return
    for line in _lines(about, numbers, notes):
        print(plain(line))
    if args.out is not None:
        print(args.out)


def _given(args: argparse.Namespace, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that arguments give, groups as mappings."""
    given: dict[str, Any] = {}
    for key, _, _ in _leaves(schema):
        if hasattr(args, PLACE + key):
            *groups, last = key.split(".")
            holder = given
            for group in groups:
                holder = holder.setdefault(group, {})
            holder[last] = getattr(args, PLACE + key)
    return given


def _behind(measure: str, settings: Mapping[str, Any], sets: Mapping[str, Path]) -> dict[str, Any]:
    """What else numbers depend on, said as the step of tables says it, so that a protocol has one spelling."""
    found = {"measure": _by(measure, settings)}
    if "model" in settings:
        found[measure] = spelled(settings["model"])
    if "reference" in sets:
        found["reference_images"] = called(spelled(str(sets["reference"])))
    return found


def _check_count(name: str, command: Command, path: Path, count: int) -> None:
    least = command.least(manifest("measures", command.measure))
    if count < least:
        raise ValueError(f"{path}: it holds {count} images, and {name} needs {least} or more; {command.mend}")


def _measured(module: Any, model: Any, parts: Sequence[Pictures]) -> pd.DataFrame:
    """What is measured of a set's images, a row for each."""
    import pandas as pd

    from lethe.measures.stored import with_columns
    from lethe.steps.measure import columns_of

    columns = []
    for part in parts:
        found = columns_of(module, model, part.archive, part.names, part.rows)
        columns.append(with_columns(part.rows, found)[list(found)])
    return pd.concat(columns, ignore_index=True)


def _write(
    out: Path, sets: Mapping[str, Path], found: Mapping[str, Sequence[Pictures]], columns: Mapping[str, pd.DataFrame]
) -> None:
    """Write a row for each image: its set and file, its own row, and what was measured, lists as JSON."""
    import pandas as pd

    from lethe.files.whole import written_whole

    tables = []
    for place, parts in found.items():
        files = [file for part in parts for file in part.files]
        told = pd.DataFrame({"images": str(sets[place]), "file": files})
        rows = pd.concat([part.rows for part in parts], ignore_index=True)
        rows = rows.drop(columns=["name", *told, *columns[place]], errors="ignore")
        tables.append(pd.concat([told, rows, columns[place].map(_cell)], axis=1))
    with written_whole(out) as part:
        pd.concat(tables, ignore_index=True).to_csv(part, index=False, lineterminator="\n")


def _cell(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return json.dumps(value) if isinstance(value, list) else value


def _set(path: Path, parts: Sequence[Pictures]) -> dict[str, Any]:
    return {
        "path": str(path),
        "n": sum(len(part.names) for part in parts),
        "prompts_from": ", ".join(dict.fromkeys(part.source for part in parts if part.source)),
    }


def _told(number: Number) -> dict[str, Any]:
    told = {"name": number.name, "value": number.value, "n": list(number.n), "interval_95": number.interval}
    return told | {"protocol": number.protocol}


def _made_by() -> dict[str, Any]:
    from lethe.records.code import environment

    return {"lethe": __version__, "environment": environment()}


def _lines(about: Mapping[str, Any], numbers: Sequence[Number], notes: Sequence[str]) -> Iterator[str]:
    """What the command prints: what was measured and how, then the numbers as a table, then what to know of them."""
    for place, of in about["sets"].items():
        prompts = f", prompts from {of['prompts_from']}" if command_of(about["command"]).prompts else ""
        yield f"{place:9}  {of['path']}, {of['n']} images{prompts}"
    yield f"{'by':9}  {_by(about['measure'], about['settings'])}"
    if not numbers:
        yield f"{about['measure']} has no single number of an image; --out FILE keeps what it has"
        return
    rows = [HEADER, *(_cells(number) for number in numbers)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from notes


def _by(measure: str, settings: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in leaves(settings))
    return measure + (f": {told}" if told else "")


def _cells(number: Number) -> tuple[str, ...]:
    interval = "" if number.interval is None else " to ".join(map(_shown, number.interval))
    return number.name, _shown(number.value), interval, " and ".join(map(str, number.n)), number.protocol


def _shown(value: float) -> str:
    return (
        str(value) if isinstance(value, int) else f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4f}"
    )
