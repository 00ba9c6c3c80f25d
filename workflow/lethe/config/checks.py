"""The configuration: what a valid one is, and one error that names everything wrong with it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lethe.bases.checks import base_problem, model_problem
from lethe.bases.folder import NETWORKS, cached_folder, read_object, single_file_problem
from lethe.bases.schedulers import CONFIG, OWN, SCHEDULERS, mend_of, scheduler_problem, training_problem
from lethe.config.schema import (
    FORMS,
    Found,
    defaults_of,
    frame,
    kind_of,
    method_of,
    schema_of,
    unknown_kind,
    walk,
    with_defaults,
)
from lethe.files.tables import no_list_of_texts, read_header, separator_of
from lethe.inputs.concepts import Concept, read_concepts
from lethe.inputs.hub import hub_problem
from lethe.messages import ConfigError, has_control, nearest, sentence, shown
from lethe.plugins import kinds, manifest

PAIRS = ("suites.*.seeds", "suites.*.words", "priors.*.words", "figures.examples.seeds")
PAIRS += ("evaluations.*.search", "evaluations.*.report")  # first and last
HOLDS = {"base": "model_index.json"}  # the file that the folder of a model of a class holds; of any other, config.json
# What keys of earlier versions are called now.
MOVED = {
    "mace": "methods have entries of their own now; write methods: {mace: {...}} with the same keys, but "
    "templates_used, which is templates.used",
    "templates_used": "this is templates.used now, since every method reads the same prompts",
}


def check_config(
    config: dict, *, source: str = "config", files: Iterable[Path] = (), made: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check a configuration against its schema, its names against each other, and its paths against the disk.

    `source` is the file to name in messages. `files` are those that the configuration was read from: a key that one of
    them gives twice is a problem, since only the last one counts. Relative paths start at the working directory. A
    path that begins with one of `made` is made by the workflow itself and need not exist yet.

    Returns the whole configuration, with all that has a default.
    Raises: ConfigError with every problem found, each beginning with the file it is in.
    """
    repeated = [problem for file in files for problem in _repeated_keys(Path(file))]
    schema = schema_of(config)
    found = list(walk(config, schema))
    problems = [*_text_problems(config), *_schema_problems(config, schema)]
    problems += [*_link_problems(config, found), *_pair_problems(config), *_disk_problems(config, found, made)]
    table_problems: tuple[str, ...] = ()
    try:
        problems += _concept_problems(config)
    except ConfigError as error:
        table_problems = error.args
    whole = {} if problems or table_problems else _with_concepts(with_defaults(config))
    problems += [] if not whole else [*_method_problems(whole), *_evaluation_problems(whole)]
    if repeated or problems or table_problems:
        told = (f"{source}: {problem}" for problem in dict.fromkeys(problems))
        raise ConfigError(*repeated, *told, *table_problems)
    return whole


def check_settings(schema: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check the settings of one plug-in, which stand in no configuration, as those in one are.

    Returns them with their defaults. Raises: ConfigError with every problem found.
    """
    whole, given = {**schema, "$defs": frame()["$defs"]}, dict(settings)
    problems = [*_text_problems(given), *_schema_problems(given, whole)]
    problems = problems or list(_disk_problems(given, walk(given, whole), ()))
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return defaults_of(schema, given)


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name too long, a folder closed to us
        return False


def _is_folder(path: str | Path) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _full(path: str) -> str:
    return shown(str(Path.cwd() / path), 500)


def _at(place: Iterable[Any]) -> str:
    """A place in the configuration, such as `tasks.three_objects.concepts[1]`."""
    text = ""
    for part in place:
        plain = isinstance(part, str) and re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", part)
        text += f"[{part}]" if isinstance(part, int) else "." * bool(text) + (part if plain else shown(part))
    return text or "the configuration"


def _hint(word: str, known: Iterable[str]) -> str:
    name = nearest(word, known)
    return f"; did you mean {name}?" if name else "."


def _listed(names: Collection[Any]) -> str:
    first = ", ".join(str(name) for name in list(names)[:12])
    return f"{first} and {len(names) - 12} more" if len(names) > 12 else first or "none"


def _find(config: Any, pattern: str) -> Iterator[tuple[tuple, str | list, dict]]:
    """Each text or list at a dotted `pattern`: its place, itself, and the mapping that holds it.

    What has another shape is left out: the schema reports it.
    """
    nodes: list[tuple[tuple, Any, Any]] = [((), config, None)]
    for part in pattern.split("."):
        nodes = [((*place, key), node[key], node) for place, node, _ in nodes for key in _keys(node, part)]
    return (found for found in nodes if isinstance(found[1], str | list))


def _keys(node: Any, part: str) -> Iterable[Any]:
    """The keys of a mapping or list that a part of a pattern stands for."""
    if isinstance(node, list):
        return range(len(node)) if part == "*" else ()
    return [key for key in node if part in ("*", key)] if isinstance(node, dict) else ()


def _text_problems(node: Any, place: tuple = ()) -> Iterator[str]:
    """Keys that are not text, and characters that neither a file name nor a table can hold."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or has_control(key):
                yield f"{_at(place)}: the key {shown(key)} is no plain text; put it in quotes, on one line."
            yield from _text_problems(value, (*place, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _text_problems(value, (*place, index))
    elif isinstance(node, str) and has_control(node):
        yield f"{_at(place)} holds a line break, invisible or control character: {shown(node)}; remove it."


def _repeated_keys(path: Path) -> Iterator[str]:
    """Keys that a YAML file gives twice in one mapping, with their lines."""
    import yaml

    try:
        waiting = [yaml.compose(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    except yaml.YAMLError:
        return  # JSON that is no YAML, since tabs indent it; Snakemake has read it
    seen = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # behind an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line, name = key.start_mark.line + 1, str(key.value)
                if name in lines:
                    first = lines[name]
                    yield f"{path}: row {line}: the key {shown(name)} is already in row {first}; remove one of the two."
                lines.setdefault(name, line)
                waiting.append(value)


def _schema_problems(config: Any, schema: dict) -> Iterator[str]:
    # Imported here: every step that imports lethe.inputs.concepts imports this module, and none needs jsonschema.
    from jsonschema import Draft202012Validator, validators

    # JSON schema counts 8.0 as an integer, and YAML can say .nan and .inf: none of them will do here.
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) is int or (type(value) is float and math.isfinite(value)),
        }
    )
    for error in validators.extend(Draft202012Validator, type_checker=types)(schema).iter_errors(config):
        yield from _sentences(error)


def _sentences(error: Any) -> Iterator[str]:
    """What a jsonschema ValidationError says, in this project's words."""
    value, rule, path = error.instance, error.schema, tuple(error.absolute_path)
    place, keys = _at(path), rule.get("properties", {})
    if "propertyNames" in error.absolute_schema_path:
        yield f"{_at((*path, value))} needs another name: it must be {rule['title']}."
    elif error.validator == "additionalProperties":
        for key in (key for key in value if isinstance(key, str) and key not in keys):
            if path[:1] == ("tasks",) and len(path) == 2 and key in kinds("methods"):
                yield f"{_at((*path, key))}: the task's methods lack {key}; name it there, or leave its settings out."
            elif key in MOVED:
                yield f"{_at((*path, key))}: {MOVED[key]}."
            else:
                yield f"{_at((*path, key))} is not a known key{_hint(key, keys)} Known keys: {_listed(keys)}."
    elif error.validator == "required":
        misspelt = {nearest(key, keys) for key in value if isinstance(key, str) and key not in keys}
        for key in (key for key in rule["required"] if key not in value and key not in misspelt):
            if key == "kind":
                yield unknown_kind(path[0], path[1], value)
            else:
                yield f"{place} lacks the key {key}; add it: {keys[key]['description']}"
    elif not isinstance(value, dict) and (error.validator == "oneOf" or rule.get("type") == "object"):
        yield f"{place} must hold keys and values; got {shown(value)}; see config/README.md."
    elif error.validator == "oneOf":
        yield from _form_sentences(error)
    elif "kind" in path[2:3] and error.validator == "enum":
        yield unknown_kind(path[0], path[1], {"kind": value})
    elif isinstance(value, dict) and "model" in value and path[0] == "evaluations":
        entry = f"{{judge: {{kind: {path[-1]}, model: ..., revision: ...}}}}"
        yield f"{place} names an entry of measures now; write measures: {entry}, and its name here."
    elif error.validator == "enum":
        options = rule["enum"]
        yield f"{place} must be one of {_listed(options)}; got {shown(value)}{_hint(str(value), map(str, options))}"
    else:
        yield f"{place} must be {rule.get('title', error.message)}; got {shown(value)}{_mend(value, rule)}"


def _form_sentences(error: Any) -> Iterator[str]:
    """Problems of an entry, judged as the one form of its section that its keys say it is."""
    place, keys, known = _at(error.absolute_path), error.instance, FORMS[error.absolute_path[0]]
    forms = [index for index, form in enumerate(known) if form in keys]
    if len(forms) != 1:
        choice = " or ".join(f"{form} ({holds})" for form, holds in known.items())
        yield f"{place} must hold either {choice}; its keys: {_listed(keys)}."
    for child in error.context:
        if [child.schema_path[0]] == forms:
            yield from _sentences(child)


def _mend(value: Any, rule: dict) -> str:
    """How a sentence goes on: what YAML reads otherwise than its writer meant, or what a word is called here."""
    wanted, called = rule.get("type", ()), rule.get("also-called", {})
    if isinstance(value, str) and value.lower() in called:
        return f"; did you mean {called[value.lower()]}?"
    if "array" in wanted and "string" not in wanted and not isinstance(value, list | dict):
        return "; put it in brackets."
    if "string" in wanted and not isinstance(value, str | list | dict):
        return "; write text, in quotes if YAML takes the word for something else."
    if wanted in ("number", "integer") and isinstance(value, str):
        return ", which YAML takes as text; leave out quotes, and write a power of ten as in 1.0e-5."
    return "."


def _link_problems(config: Any, found: Iterable[Found]) -> Iterator[str]:
    """Names of entries that a section has not, or that are of another kind than is wanted there."""
    for place, value, rule, _ in found:
        section = rule.get("entry-of")
        if section is None or not isinstance(value, str):
            continue
        known = config.get(section, {})
        if not isinstance(known, dict):
            continue
        if section == "probes":  # each kind of which is one
            known = {name: {} for name in kinds(section)} | known
        if value not in known:
            hint = _hint(value, [str(name) for name in known])
            yield f"{_at(place)}: {section} has no entry {shown(value)}{hint} Known {section}: {_listed(known)}."
        elif (wanted := rule.get("of-kind")) and (kind := kind_of(section, value, known[value])) not in (None, wanted):
            told = f"{section}.{value} is of the kind {kind}"
            yield f"{_at(place)} must be of the kind {wanted}, and {told}; name another."
    tasks = config.get("tasks") if isinstance(config, dict) else None
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        methods = task.get("methods") if isinstance(task, dict) else None
        entries = config.get("methods") if isinstance(config.get("methods"), dict) else {}
        for index, method in enumerate(methods if isinstance(methods, list) else ()):
            known = [*(str(entry) for entry in entries), *kinds("methods")]
            if isinstance(method, str) and method not in known:
                at = _at(("tasks", name, "methods", index))
                told = f"{shown(method)}{_hint(method, known)} Known methods: {_listed(known)}."
                yield f"{at}: methods has no entry {told}"
            elif isinstance(method, str) and method not in entries and (needed := _needed(method)):
                at = _at(("tasks", name, "methods", index))
                yield f"{at}: {method} has no default for {_listed(needed)}; write methods: {{{method}: ...}} with it."


def _needed(method: str) -> list[str]:
    """The settings of a kind of method that have no default."""
    return manifest("methods", method).settings["required"]


def _method_problems(config: dict) -> Iterator[str]:
    """Settings that a method's manifest refuses together."""
    for task, chosen in config["tasks"].items():
        for name in chosen["methods"]:
            settings = method_of(config, task, name)
            for rule in manifest("methods", settings["kind"]).more.get("refused", ()):
                if all(settings[key] == value for key, value in rule["where"].items()):
                    yield f"methods.{name} (in task {task}): {rule['because']}."


def _evaluation_problems(config: dict) -> Iterator[str]:
    """Evaluations with a setting and without another that it needs; tables over tasks that are not measured alike."""
    for name, evaluation in config["evaluations"].items():
        for key, needed in manifest("tables", evaluation["kind"]).more.get("needs", {}).items():
            lacking = [other for other in needed if evaluation[other] is None]
            if evaluation[key] is not None and lacking:
                at = f"evaluations.{name}"
                yield f"{at}.{key} needs {' and '.join(lacking)} beside it; name what is missing, or let {key} be null."
    for name, table in config["tables"].items():
        if table["average"] and "average" in table["tasks"]:
            yield f"tables.{name}.average: a task is called average, as the row of the mean would be; rename the task."
        found = {task: config["tasks"][task]["evaluation"] for task in table["tasks"]}
        of_kinds = {task: config["evaluations"][e]["kind"] if e else None for task, e in found.items()}
        if len(set(of_kinds.values())) > 1 or None in of_kinds.values():
            told = ", ".join(f"{task} ({kind or 'no evaluation'})" for task, kind in of_kinds.items())
            yield f"tables.{name}: its tasks must have evaluations of one kind; they are {told}; leave some out."
            continue
        if manifest("tables", next(iter(of_kinds.values()))).more.get("attacks"):
            for key in (key for key in ("figure", "published") if table[key] is not None):
                yield f"tables.{name}.{key}: a table of attacks has none; let it be null."
            continue  # its rows are of one task each, and say by which protocol they are
        yield from _protocol_problems(config, name, found)


def _protocol_problems(config: dict, name: str, evaluations: Mapping[str, str]) -> Iterator[str]:
    """Settings, other than suites, in which the evaluations of a table's tasks differ."""
    (first, evaluation), *others = evaluations.items()
    one = config["evaluations"][evaluation]
    suites = manifest("tables", one["kind"]).entries_of("suites")
    for task, other in others:
        differ = [key for key in one if key not in suites and config["evaluations"][other][key] != one[key]]
        if differ:
            told = f"two protocols never share a column, and tasks {first} and {task} differ in {' and '.join(differ)}"
            at = f"evaluations.{evaluation} and evaluations.{other}"
            yield f"tables.{name}: {told} of {at}; make them alike, or give each task a table of its own."
            return


def _pair_problems(config: Any) -> Iterator[str]:
    for pattern in PAIRS:
        for place, pair, _ in _find(config, pattern):
            if len(pair) == 2 and all(type(value) is int for value in pair) and pair[0] > pair[1]:
                yield f"{_at(place)} must be [first, last] with first <= last; got {pair}; swap the two."
    if isinstance(config, dict) and config.get("offload") is True and config.get("device") == "cpu":
        yield "offload is true, and device is cpu, where there is nothing to offload from; remove one of the two."


def _concept_problems(config: Any) -> list[str]:
    """Concepts of tasks that the table lacks. Raises: ConfigError with what is wrong with the table itself."""
    problems = []
    for _, table, _ in _find(config, "concepts"):
        readable = isinstance(table, str) and _is_file(table)
        rows = read_concepts(table) if readable else []
        names = [concept.name for concept in rows]
        tasks = config["tasks"] if isinstance(config.get("tasks"), dict) else {}
        for task, chosen in ((name, task.get("concepts")) for name, task in tasks.items() if isinstance(task, dict)):
            first = chosen.get("first") if isinstance(chosen, dict) else None
            if readable and type(first) is int and first > (most := len(_of_kind(rows, chosen.get("kind")))):
                at, of = _at(("tasks", task, "concepts", "first")), " of this kind" if "kind" in chosen else ""
                problems.append(f"{at} must be at most {most}, the concepts{of} of {table}; got {first}.")
        for place, concepts, _ in _find(config, "tasks.*.concepts"):
            for index, name in enumerate(concepts if isinstance(concepts, list) else ()):
                if readable and isinstance(name, str) and name not in names:
                    close = nearest(name, names)
                    mend = f"did you mean {shown(close)}? If not, add a row for it." if close else "add a row for it."
                    problems.append(f"{_at((*place, index))}: {table} has no concept {shown(name)}; {mend}")
    return problems


def _with_concepts(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration in which every task lists its concepts by name."""
    for task in config["tasks"].values():
        if isinstance(chosen := task["concepts"], dict):
            rows = _of_kind(read_concepts(config["concepts"]), chosen.get("kind"))
            task["concepts"] = [concept.name for concept in rows[: chosen["first"]]]
    return config


def _of_kind(concepts: list[Concept], kind: Any) -> list[Concept]:
    """The concepts of a kind; all where it is None."""
    return [concept for concept in concepts if kind in (None, concept.kind)]


def _disk_problems(config: Any, found: Iterable[Found], made: tuple[str, ...]) -> Iterator[str]:
    """Files, columns and models that the configuration names and the disk does not hold."""
    for place, value, rule, holder in found:
        if isinstance(value, str) and "file" in rule:
            yield from _file_problems(place, value, rule, holder, made)
        elif isinstance(value, str) and "model" in rule and not value.startswith(made):
            if place[0] == "masks" and _segmenter(config) != place[1]:
                continue
            kind = rule["model"]
            holds = HOLDS.get(kind, "config.json")
            wanted = None if kind in HOLDS else kind
            yield from _model_problems(_at(place), value, holder.get("revision"), holds, wanted)
            if kind == "base":
                yield from _base_problems(config, _at(place[:-1]), place[1], holder)
    masks = config.get("masks") if isinstance(config, dict) else None
    if _segmenter(config) == "clipseg" and not (
        isinstance(masks.get("clipseg"), dict) and masks["clipseg"].get("model")
    ):
        yield "masks.clipseg lacks the key model; add it: the CLIPSeg model that finds concepts."


def _segmenter(config: Any) -> Any:
    masks = config.get("masks") if isinstance(config, dict) else None
    return masks.get("segmenter") if isinstance(masks, dict) else None


def _file_problems(place: tuple, path: str, rule: dict, holder: dict, made: tuple[str, ...]) -> Iterator[str]:
    """What speaks against a file that the configuration names."""
    if path.startswith("-") or "{" in path or "}" in path:
        why = "begins with '-' like an option" if path.startswith("-") else "has braces like a wildcard"
        yield f"{_at(place)}: {shown(path, 500)} {why}; rename the file."
        return
    if path.startswith(made) or (rule["file"] == "images" and _is_folder(path)):
        return
    lacking = [str(Path(path) / name) for name in rule.get("holds", ())] or [path]
    if lacking := [name for name in lacking if not _is_file(name)]:
        mend = f", or put there what can be had from {rule['from']}" if "from" in rule else ""
        yield f"{_at(place)}: there is no file {_full(lacking[0])}; correct the path{mend}."
        return
    keys = rule.get("columns", ())
    wanted = [((*place[:-1], key), holder[key]) for key in keys if isinstance(holder.get(key), str)]
    if rule["file"] == "rows":
        wanted = list(_suite_columns(place, holder.get("columns")))
    if wanted:
        separator = "\t" if rule["file"] == "table" else separator_of(path)
        yield from _column_problems(path, separator, wanted, comments=rule["file"] == "table")
    elif rule["file"] == "texts" and (problem := no_list_of_texts(Path(path))):
        yield f"{_at(place)}: {shown(path, 500)} is {problem} ({_at((*place[:-1], 'column'))})."


def _suite_columns(place: tuple, columns: Any) -> Iterator[tuple[tuple, str]]:
    """The columns that a suite's file must have, each with the place that asks for it."""
    from lethe.files.shards import file_columns

    named = columns if isinstance(columns, dict) else {}
    for name, column in file_columns(named).items():
        if isinstance(column, str) and (columns is None or name != "type" or name in named):
            yield (*place[:-1], "columns", name) if name in named else place, column


def _column_problems(path: str, separator: str, wanted: list[tuple[tuple, str]], *, comments: bool) -> Iterator[str]:
    """Which of the `wanted` columns, each with the place that asks for it, the header of a file lacks.

    With `comments`, lines that are comments do not count.
    """
    try:
        columns = read_header(Path(path), separator, comments=comments)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield f"{_at(wanted[0][0])}: {shown(path)} is no table in UTF-8 ({shown(str(error))}); save it as one."
        return
    for place, column in wanted:
        if column not in columns:
            hint = f"{_hint(column, columns)} Its columns, separated by {separator!r}: {_listed(columns)}."
            if place[-1] == "file":
                hint += f" {_at((*place[:-1], 'columns'))} can name another."
            yield f"{_at(place)}: {shown(path)} has no column {shown(column)}{hint}"


def _base_problems(config: dict, place: str, name: Any, base: dict) -> Iterator[str]:
    """What speaks against a base's folder, or a hub id's snapshot in the cache, and against sampling it as told."""
    folder, variant = _cached(base["model"], base.get("revision"), base.get("variant")), base.get("variant")
    if folder is None or not (folder / "model_index.json").is_file():
        return
    if problems := list(_variant_problems(place, folder, variant)):
        yield from problems
        return
    try:
        if problem := base_problem(folder, variant=variant):
            yield f"{place}.model: {str(folder)!r}: {problem}."
            return
        scheduler = read_object(folder / CONFIG)
    except (ValueError, OSError) as error:
        yield f"{place}.model: {sentence(error)}; download the model again."
        return
    tasks = config.get("tasks") if isinstance(config.get("tasks"), dict) else {}
    trained = any(isinstance(task, dict) and task.get("base") == name for task in tasks.values())
    if trained and (problem := training_problem(scheduler)):
        yield f"{place}.model: {str(folder)!r}: {problem}; name another base."
        return
    keys: dict[str, list[str]] = {}
    for section in ("images", "sampling"):
        choice = config[section].get("scheduler") if isinstance(config.get(section), dict) else None
        choice = choice or frame()["properties"][section]["properties"]["scheduler"]["default"]
        if choice in (*SCHEDULERS, OWN):
            keys.setdefault(choice, []).append(f"{section}.scheduler")
    for choice, told in keys.items():
        if problem := scheduler_problem(scheduler, choice):
            mend = mend_of(scheduler, choice)
            yield f"{place}.model: {str(folder)!r}, under {' and '.join(told)}: {problem}{mend}."


def _cached(model: str, revision: Any, variant: Any) -> Path | None:
    if _is_folder(model):
        return Path(model)
    return cached_folder(model, revision if isinstance(revision, str) else None, variant)


def _variant_problems(place: str, folder: Path, variant: Any) -> Iterator[str]:
    """A base must store its parts as safetensors; those in only one number format must be asked for in that one."""
    stored: dict[str, set[bool]] = {}
    for part in filter(_is_folder, (folder / name for name in NETWORKS)):
        names = sorted(path.name for path in part.iterdir())
        stored[str(part)] = {".fp16" in name for name in names if name.endswith(".safetensors")}
        pickles = [name for name in names if name.endswith(".bin")]
        if pickles and not stored[str(part)]:
            mend = "load it once with diffusers and save it with safe_serialization=True"
            yield f"{place}.model: {str(part)!r} has its weights only as a pickle, {pickles[0]}; {mend}."
            return
    half = next((part for part, formats in stored.items() if formats == {True}), None)
    if half and variant is None:
        yield f"{place} lacks the key variant: {half!r} holds only half precision; add variant: fp16."
    elif stored and variant == "fp16" and not any(True in formats for formats in stored.values()):
        yield f"{place}.variant: {next(iter(stored))!r} holds no *.fp16.safetensors; remove the key."


def _model_problems(place: str, model: str, revision: Any, holds: str, kind: str | None) -> Iterator[str]:
    """A path must be the folder of a model, of a class of transformers if one is wanted; or else a hub id.

    What a hub id that is not cached holds, only a download can tell.
    """
    revision = revision if isinstance(revision, str) else None
    if problem := single_file_problem(model):
        yield f"{place}: {problem}."
    elif model.startswith(("/", "./", "../")) or _is_folder(Path(*Path(model).parts[:1])):
        if not _is_folder(model):
            yield f"{place}: there is no folder {_full(model)}; correct the path."
        elif not (Path(model) / holds).is_file():
            yield f"{place}: the folder {_full(model)} holds no {holds}; name the folder that does."
    elif problem := hub_problem(model, revision):
        yield f"{place}: {problem}, and there is no folder {_full(model)}; correct it."
        return
    folder = _cached(model, revision, None) if kind else None
    if folder is None or not (folder / holds).is_file():
        return
    try:
        if problem := model_problem(folder, kind):
            yield f"{place}: {str(folder)!r}: {problem}."
    except (ValueError, OSError) as error:
        yield f"{place}: {sentence(error)}; download the model again."
