"""What is known when planning: numbers that could have no images, and what is worth a word before hours of work.

`check_plan` refuses; `remarks` are sentences for a person, about what runs but may not be meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lethe.config.schema import method_of, walk
from lethe.files.shards import picture_names
from lethe.files.tables import as_read, read_header, separator_of
from lethe.inputs.concepts import Concept, read_concepts
from lethe.inputs.suites import class_names, settings_elsewhere, suite_file, suite_rows
from lethe.inputs.templates import read_templates, template_file
from lethe.jobs import spelled
from lethe.messages import ConfigError, nearest, shown
from lethe.plugins import manifest
from lethe.tables.published import cases_of, read_published, read_values

I2P = "results/i2p/i2p_benchmark.csv"  # which a rule fetches
FEW = "add it, to say how many rows to take of its 4703"
EMBEDDED = "resources/emoji"  # whose models and tables know the emoji world and nothing else


@dataclass(frozen=True)
class Measured:
    """A task as it is measured: its name, what it erases, and the name, settings and classes of its evaluation.

    `classes` is None where the evaluation has none.
    """

    task: str
    erased: Sequence[Concept]
    evaluation: str
    chosen: dict
    classes: Sequence[str] | None

    @property
    def attacks(self) -> bool:
        """Whether what is measured is attacks, of which there are no suites."""
        return bool(manifest("tables", self.chosen["kind"]).more.get("attacks"))

    @property
    def roles(self) -> dict[str, dict]:
        """What the evaluation's kind says of each role that has a suite: which rows count, and towards what."""
        return {role: said for role, said in roles_of(self.chosen["kind"]).items() if self.chosen[role] is not None}

    @property
    def counted(self) -> dict[str, str]:
        """The number that the rows of a role count towards by their type."""
        return {role: said["towards"] for role, said in self.roles.items() if said["counts"] != "all"}

    @property
    def references(self) -> dict[str, str]:
        """The sets of real images that the evaluation names, each with the setting that names what measures it."""
        said = manifest("tables", self.chosen["kind"]).more.get("references", {})
        named = {key: some for key, some in said.items() if self.chosen[key] is not None}
        return {key: next(by for by in some if self.chosen[by] is not None) for key, some in named.items()}

    @property
    def texts(self) -> dict[str, str]:
        """The texts that the evaluation names, each with the setting that names what measures it."""
        said = manifest("tables", self.chosen["kind"]).more.get("texts", {})
        return {key: by for key, by in said.items() if self.chosen[key] is not None}

    def counts(self, role: str) -> set[str] | None:
        """The types of a role's rows that count; None where all do that are not erased."""
        names = {concept.name for concept in self.erased}
        if self.roles[role]["counts"] == "erased":
            return names
        return None if self.classes is None else set(self.classes) - names

    def used(self, role: str, types: pd.Series) -> pd.Series:
        """Which rows of a role's suite count, by their types."""
        if self.roles[role]["counts"] == "all":
            return types.notna()
        counts = self.counts(role)
        return ~types.isin({concept.name for concept in self.erased}) if counts is None else types.isin(counts)


def roles_of(kind: str) -> dict[str, dict]:
    """What a kind of evaluation says of its roles."""
    return manifest("tables", kind).more["roles"]


@dataclass(frozen=True)
class Inputs:
    """What a configuration names and files hold: concepts, the rows of suites, the classes of evaluations, by name.

    An evaluation without classes has None. Of suites whose rows a run draws or fetches, `fetched` has their number.
    """

    concepts: Sequence[Concept]
    suites: Mapping[str, pd.DataFrame]
    classes: Mapping[str, Sequence[str] | None]
    fetched: Mapping[str, int] = field(default_factory=dict)

    def count(self, suite: str) -> int:
        """How many rows a suite has."""
        return self.fetched[suite] if suite in self.fetched else len(self.suites[suite])


def read_inputs(config: dict, source: str = "config") -> Inputs:
    """Read what a checked configuration names.

    Raises ConfigError with what is wrong with the concept table, a suite that an evaluation uses, a class table.
    """
    concepts = read_concepts(Path(config["concepts"]))
    return Inputs(concepts, read_suites(config, source), read_classes(config, source), fetched_suites(config))


def fetched_suites(config: dict) -> dict[str, int]:
    """How many rows each suite has whose rows are known only when a run drew or fetched them."""
    return {name: suite["rows"] for name, suite in config["suites"].items() if is_fetched(suite) and "rows" in suite}


def is_fetched(suite: dict) -> bool:
    """Whether a run draws or fetches the rows of a suite, whatever lies there by now."""
    return "coco" in suite or ("file" in suite and spelled(suite["file"]) == I2P)


def read_suites(config: dict, source: str = "config") -> dict[str, pd.DataFrame]:
    """The rows of every suite that can be read.

    Raises ConfigError with what is wrong with each that an evaluation of a task uses.
    """
    rows, problems = {}, []
    for name, suite in config["suites"].items():
        if is_fetched(suite):
            if "rows" not in suite:
                problems.append(f"{source}: suites.{name} lacks the key rows: {I2P} is fetched by a run; {FEW}.")
            continue
        try:
            rows[name] = suite_rows(suite)
        except ValueError as error:
            told = f"suites.{name}: {str(error).removeprefix('suite_rows: ')}"
            users = [f"evaluations.{evaluation}.{role}" for evaluation, role, used in _uses(config) if used == name]
            mends = [f"{user}: null does without it" for user in users if user.endswith(".generality")]
            users += [f"tasks.{task}.suites" for task, chosen in config["tasks"].items() if name in chosen["suites"]]
            if users:
                problems.append(f"{source}: {'; '.join([told, *mends])}.")
    if problems:
        raise ConfigError(*problems)
    return rows


def read_classes(config: dict, source: str = "config") -> dict[str, list[str] | None]:
    """The classes of every evaluation that has some. Raises ConfigError with what is wrong with their tables."""
    classes, problems = {}, []
    for name, evaluation in config["evaluations"].items():
        try:
            classes[name] = class_names(**evaluation["classes"]) if evaluation.get("classes") else None
        except ValueError as error:
            problems.append(f"{source}: evaluations.{name}.classes: {error}.")
    if problems:
        raise ConfigError(*problems)
    return classes


def check_plan(config: dict, inputs: Inputs, source: str = "config") -> None:
    """Refuse, before anything runs, what could not be measured when all has run.

    Raises ConfigError with every problem: an erased concept that is no class, a number without images, types that
    differ from a name in what `as_read` ignores, templates that cannot be read, too few images for a distance, a
    published table that is none.
    """
    problems: list[str] = []
    for measured in measured_tasks(config, inputs):
        problems += _class_problems(measured)
        problems += _count_problems(measured, config, inputs)
        problems += _distance_problems(measured, config, inputs)
    problems += _type_problems(config, inputs)
    problems += _published_problems(config)
    for key, paths in {"templates": _templates, "images.anchor_prompts": _anchor_prompts}.items():
        for path in paths(config, inputs.concepts):
            try:
                read_templates(Path(path))
            except ValueError as error:
                problems.append(f"{key}: {error}.")
    if problems:
        raise ConfigError(*(f"{source}: {problem}" for problem in dict.fromkeys(problems)))


def remarks(config: dict, inputs: Inputs) -> list[str]:
    """What may not be meant, a sentence each; the arguments have passed `check_plan`."""
    found: list[str] = []
    by_name = {concept.name: concept for concept in inputs.concepts}
    for measured in measured_tasks(config, inputs):
        found += _missing_rows(measured, inputs.suites)
        found += _kept_synonyms(measured)
    for name, task in config["tasks"].items():
        found += _anchors(name, [by_name[concept] for concept in task["concepts"]])
        found += _embedded(name, config, by_name)
    found += _uncounted(config, inputs)
    found += _suite_remarks(config, inputs.suites)
    found += _few_templates(config, inputs.concepts)
    found += _synonym_remarks(config, inputs.concepts)
    return list(dict.fromkeys(found))


def _uses(config: dict) -> list[tuple[str, str, str]]:
    """(evaluation, role, suite) of every evaluation that a task uses."""
    used = dict.fromkeys(task["evaluation"] for task in config["tasks"].values() if task["evaluation"])
    chosen = [(config["evaluations"][name], name) for name in used]
    uses = [(name, role, evaluation[role]) for evaluation, name in chosen for role in roles_of(evaluation["kind"])]
    return [use for use in uses if use[2] is not None]


def measured_tasks(config: dict, inputs: Inputs) -> Iterator[Measured]:
    """Every task that has an evaluation."""
    by_name = {concept.name: concept for concept in inputs.concepts}
    for name, task in config["tasks"].items():
        if evaluation := task["evaluation"]:
            erased = [by_name[concept] for concept in task["concepts"]]
            yield Measured(name, erased, evaluation, config["evaluations"][evaluation], inputs.classes[evaluation])


def _some(names: Iterable[str], most: int = 5) -> str:
    """Names for a sentence, the first few of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def _where(suite: str, config: dict) -> str:
    return f"suite {suite} ({suite_file(config['suites'][suite])})"


def _class_problems(measured: Measured) -> Iterator[str]:
    """Erased concepts that are no class, where rows count by them; what is to be counted and is none."""
    if measured.classes is None:
        return
    table, known = measured.chosen["classes"]["table"], set(measured.classes)
    for key in manifest("tables", measured.chosen["kind"]).more.get("among", ()):
        at = f"evaluations.{measured.evaluation}.{key}"
        if unknown := [name for name in measured.chosen[key] if name not in known]:
            yield f"{at}: {table} has no class {_some(unknown)}; write it as there, or add a row for it."
        elif len(set(measured.chosen[key])) < max(len(measured.chosen[key]), 1):
            yield f"{at} must name at least one class, each once; got {shown(measured.chosen[key])}."
    if not measured.counted:
        return
    alike = {as_read(name): name for name in measured.classes}
    missing = [concept for concept in measured.erased if concept.name not in known]
    for concept in missing:
        if other := alike.get(as_read(concept.name)):
            yield (
                f"tasks.{measured.task}: {shown(concept.name)} is erased, and {table} writes it {shown(other)} "
                f"(evaluations.{measured.evaluation}.classes); write it the same in both."
            )
    rest = [concept for concept in missing if as_read(concept.name) not in alike]
    if rest:
        of = f" ({rest[0].kind}; an evaluation of its own may fit better)" if rest[0].kind != "object" else ""
        yield (
            f"tasks.{measured.task}: {_some(concept.name for concept in rest)}{of} would be erased but not measured: "
            f"{table} has no such class (evaluations.{measured.evaluation}.classes); add a row for it, "
            "or name another evaluation."
        )


def _count_problems(measured: Measured, config: dict, inputs: Inputs) -> Iterator[str]:
    """Numbers that no row would count towards, or nobody knows which."""
    for role, number in measured.counted.items():
        suite, wanted = measured.chosen[role], measured.counts(role)
        if suite in inputs.fetched:
            mend = f"make results/suites/{suite}.csv, and name a copy of it outside results as a suite's file"
            told = f"its rows count towards {number} by their types, which are known only when they are fetched"
            yield f"evaluations.{measured.evaluation}.{role}: suite {suite} does not fit here, as {told}; {mend}."
            continue
        if measured.used(role, inputs.suites[suite]["type"]).any():
            continue
        types = list(inputs.suites[suite]["type"].unique())
        found = "no types" if types == [""] else f"the types {_some(types)}"
        of = "what is" if wanted is None else "classes that are"
        needs = _some(sorted(wanted)) if measured.roles[role]["counts"] == "erased" else f"{of} not erased"
        mend = f"write these as its types, or let suites.{suite}.columns name the column that holds them"
        if "table" in config["suites"][suite]:
            mend = "give them words there, or name another suite"
        if role == "generality":
            mend += "; generality: null leaves acc_g out"
        yield (
            f"evaluations.{measured.evaluation}.{role}: no row of {_where(suite, config)} counts towards {number} of "
            f"task {measured.task}: it has {found}, and what counts is {needs}; {mend}."
        )


def _distance_problems(measured: Measured, config: dict, inputs: Inputs) -> Iterator[str]:
    """Too few images for a Frechet distance, where the dimensions of the embeddings are known; images that are none."""
    distance = manifest("tables", measured.chosen["kind"]).more.get("distance")
    if distance is None or None in (measured.chosen[distance["of"]], measured.chosen[distance["to"]]):
        return
    at, images = f"evaluations.{measured.evaluation}", measured.chosen[distance["to"]]
    by = measured.chosen[measured.references[distance["to"]]]
    dimensions = _dimensions(config["measures"][by])
    counts = {distance["of"]: inputs.count(measured.chosen[distance["of"]])}
    if not images.startswith("results/"):
        try:
            counts[distance["to"]] = len(picture_names(Path(images)))
        except ValueError as error:
            yield f"{at}.{distance['to']}: {error}."
    for key, count in counts.items():
        if dimensions is not None and count <= dimensions:
            of = f"suite {measured.chosen[key]}" if key == distance["of"] else images
            yield (
                f"{at}.{key}: {of} has {count} images, and fid needs more than the {dimensions} dimensions of what "
                f"measures.{by} gives; add some, or take a measure of fewer."
            )


def _published_problems(config: dict) -> Iterator[str]:
    """What speaks against the published tables that tables name."""
    for name, table in config["tables"].items():
        if (named := table["published"]) is None:
            continue
        at = f"tables.{name}.published"
        try:
            published = read_published(named["set"], named["table"])
            theirs = list(dict.fromkeys(read_values(published.file, published.said)["method"]))
            cases_of(published.said, [(task, config["tasks"][task]["concepts"]) for task in table["tasks"]])
        except OSError:
            yield f"{at}: there is no file {published.file}, which {named['set']} names; correct it there."
            continue
        except ValueError as error:
            yield f"{at}: {error}."
            continue
        ours = dict.fromkeys(["original", *(m for task in table["tasks"] for m in config["tasks"][task]["methods"])])
        called = [named["methods"].get(method, method) for method in ours]
        for method, row in named["methods"].items():
            if method not in ours:
                told = f"no task of the table has the method {shown(method)}"
                yield f"{at}.methods: {told}; its methods are {', '.join(ours)}."
            if row not in theirs:
                hint = f"; did you mean {shown(close)}?" if (close := nearest(row, theirs)) else "."
                told = f"{published.file} has no row {shown(row)}{hint} Its rows: {', '.join(theirs)}"
                yield f"{at}.methods.{method}: {told}."
            elif called.count(row) > 1:
                yield f"{at}.methods.{method}: {shown(row)} is named {called.count(row)} times; one can stand there."


def _dimensions(measure: Mapping) -> int | None:
    """How wide what a measure gives of an image is, by its manifest; of a CLIP, by its folder, if that says so."""
    said = manifest("measures", measure["kind"]).more
    if "dimensions" in said:
        return said["dimensions"]
    try:
        content = json.loads((Path(measure["model"]) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    width = content.get("projection_dim") if isinstance(content, dict) else None
    return width if isinstance(width, int) else None


def _type_problems(config: dict, inputs: Inputs) -> Iterator[str]:
    """Types that differ from a concept or class in capitals, space or composition alone."""
    for suite, known, unknown, _ in _unknown_types(config, inputs):
        alike = {as_read(name): name for name in known}
        near = {kind: alike[as_read(kind)] for kind in unknown if as_read(kind) in alike}
        if near:
            file, rows = suite_file(config["suites"][suite]), sum(unknown[kind] for kind in near)
            told = ", ".join(f"{shown(kind)} for {shown(name)}" for kind, name in list(near.items())[:5])
            where = f"types in {file} differ from names in capitals or space alone, in {rows} of its rows"
            yield f"suites.{suite}: {where}: {told}; write them the same."


def _uncounted(config: dict, inputs: Inputs) -> Iterator[str]:
    """Rows that are sampled and measured but count towards no number."""
    for suite, _, unknown, roles in _unknown_types(config, inputs):
        if unknown and "all" not in roles:
            yield (
                f"suites.{suite}: {sum(unknown.values())} of {len(inputs.suites[suite])} rows count towards no number, "
                f"since their type is no concept or class: {_some(unknown)} ({suite_file(config['suites'][suite])})."
            )


def _unknown_types(config: dict, inputs: Inputs) -> Iterator[tuple[str, set[str], dict[str, int], set[str]]]:
    """Each suite whose rows count by type: what its types can be, the others with their rows, what its roles count.

    A suite that shows what must stay, whatever that is, can have any type.
    """
    known: dict[str, set[str] | None] = {}
    counted: dict[str, set[str]] = {}
    concepts = {concept.name for concept in inputs.concepts}
    for evaluation, role, suite in _uses(config):
        counts = roles_of(config["evaluations"][evaluation]["kind"])[role]["counts"]
        counted.setdefault(suite, set()).add(counts)
        classes = inputs.classes[evaluation]
        if counts == "kept" and classes is None:
            known[suite] = None
        elif counts != "all" and known.setdefault(suite, set()) is not None:
            known[suite] |= set(classes or ()) | (concepts if counts == "erased" else set())
    for suite, names in known.items():
        if names is not None and suite not in inputs.fetched:
            found = inputs.suites[suite]["type"].value_counts(sort=False)
            yield suite, names, {kind: int(n) for kind, n in found.items() if kind not in names}, counted[suite]


def _kinds(config: dict, concepts: Sequence[Concept]) -> set[str]:
    """The kinds of concept that a task erases."""
    erased = {name for task in config["tasks"].values() for name in task["concepts"]}
    return {concept.kind for concept in concepts if concept.name in erased}


def _templates(config: dict, concepts: Sequence[Concept]) -> list[str]:
    """The template files of the kinds that a task erases."""
    return sorted({template_file(config["templates"], kind) for kind in _kinds(config, concepts)})


def _anchor_prompts(config: dict, concepts: Sequence[Concept]) -> list[str]:
    """The files of prompts of their anchors."""
    given = [config["images"]["anchor_prompts"][kind] for kind in _kinds(config, concepts)]
    return sorted({path for path in given if isinstance(path, str)})


def _few_templates(config: dict, concepts: Sequence[Concept]) -> Iterator[str]:
    used = config["templates"]["used"]
    for path in _templates(config, concepts):
        count = len(read_templates(Path(path)))
        if count < used:
            yield f"templates.used is {used}, and {path} holds {count}: training uses these {count}."


def _missing_rows(measured: Measured, suites: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Erased concepts that a suite shows nothing of, where it shows others."""
    for role in (role for role, said in measured.roles.items() if said["counts"] == "erased"):
        suite = measured.chosen[role]
        types = set(suites[suite]["type"].unique())
        missing = [concept.name for concept in measured.erased if concept.name not in types]
        if missing:
            yield (
                f"tasks.{measured.task}: {measured.counted[role]} says nothing of {len(missing)} of its "
                f"{len(measured.erased)} concepts, since suite {suite} has no row of the type {_some(missing)}."
            )


def _anchors(task: str, erased: Sequence[Concept]) -> Iterator[str]:
    """Anchors that are erased, too."""
    at, names = f"tasks.{task}", {_plain(concept.name): concept for concept in erased}
    words = {_plain(word): concept for concept in erased for word in concept.synonyms}
    anchors = {concept.name: names.get(_plain(concept.anchor)) for concept in erased}
    for concept in erased:
        anchor, other = shown(concept.anchor), anchors[concept.name]
        if other and anchors[other.name] is concept:
            if concept.name < other.name:
                pair = f"{shown(concept.name)} and {shown(other.name)}"
                yield f"{at}: {pair} are erased towards each other; give one of them another anchor."
        elif other:
            told = f"{at}: {shown(concept.name)} is erased towards {anchor}, which is erased as well"
            yield f"{told}; give it an anchor that stays."
        elif of := words.get(_plain(concept.anchor)):
            told = f"{at}: {shown(concept.name)} is erased towards {anchor}, a synonym of {shown(of.name)}"
            yield f"{told}, which is erased; give it an anchor that stays."


def _kept_synonyms(measured: Measured) -> Iterator[str]:
    """Classes that count as kept and are to vanish as another word for what is erased."""
    names = {_plain(concept.name) for concept in measured.erased}
    words = {_plain(word): concept for concept in measured.erased for word in concept.synonyms}
    for name in (measured.classes or ()) if measured.counted else ():
        if _plain(name) in words and _plain(name) not in names:
            yield (
                f"tasks.{measured.task}: the class {shown(name)} ({measured.chosen['classes']['table']}) counts as "
                f"kept, and as a synonym of {shown(words[_plain(name)].name)} it is to vanish; remove one of the two."
            )


def _plain(phrase: str) -> str:
    """A phrase for comparing what it means: without an article, as CLIP reads it."""
    return re.sub(r"^(a|an|the) (?=.)", "", as_read(phrase))


def _embedded(task: str, config: dict, concepts: Mapping[str, Concept]) -> Iterator[str]:
    """What of the emoji world another base would meet, by the names of paths."""
    chosen = config["tasks"][task]
    base = config["bases"][chosen["base"]]["model"]
    met: dict[str, str | None] = {}
    for name in chosen["methods"]:
        settings = method_of(config, task, name)
        said = manifest("methods", settings["kind"])
        for key in said.entries_of("priors"):
            if settings[key]:
                met[f"methods.{name}.{key}"] = config["priors"][settings[key]].get("file")
        for place, value, rule, _ in walk(settings, said.settings):
            if "model" in rule:
                met[".".join(("methods", name, *place))] = value
        seen = any(concepts[concept].kind != "style" for concept in chosen["concepts"])
        if config["masks"]["segmenter"] == "clipseg" and seen and {"masks", "loras"} & set(said.reads):
            met["masks.clipseg.model"] = config["masks"]["clipseg"]["model"]
    if evaluation := chosen["evaluation"]:
        entry = config["evaluations"][evaluation]
        described = manifest("tables", entry["kind"]).settings
        for place, value, rule, _ in walk(entry, described):
            if "file" in rule and isinstance(value, str):
                met[".".join(("evaluations", evaluation, *map(str, place)))] = value
            elif rule.get("entry-of") == "measures" and value:
                met[f"measures.{value}.model"] = config["measures"][value].get("model")
    keys = [key for key, path in met.items() if _is_embedded(path)]
    if keys and not _is_embedded(base):
        yield (
            f"tasks.{task}: {', '.join(keys)} come from {EMBEDDED}, which knows its own world alone, and the base "
            f"{chosen['base']} ({base}) is another; name models and files made for it."
        )


def _is_embedded(path: str | None) -> bool:
    return path is not None and f"/{EMBEDDED}/" in f"/{Path(path).as_posix()}/"


def _suite_remarks(config: dict, suites: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Suites that nothing uses, rows that repeat others, settings that stand in a file and are not read."""
    used = {suite for _, _, suite in _uses(config)}
    used |= {suite for task in config["tasks"].values() for suite in task["suites"]}
    for name, suite in config["suites"].items():
        if name not in used:
            yield f"suites.{name}: no task and no evaluation of one uses it, so nothing samples it."
            continue
        if name not in suites:
            continue
        if repeated := int(suites[name].duplicated().sum()):
            yield (
                f"suites.{name}: {repeated} of {len(suites[name])} rows repeat another's type, prompt and seed, so the "
                f"same images count more than once ({suite_file(suite)})."
            )
        if "file" in suite:
            header = read_header(Path(suite["file"]), separator_of(suite["file"]))
            if ignored := settings_elsewhere(header, suite.get("columns")):
                yield (
                    f"suites.{name}: {suite['file']} has {', '.join(ignored)}, which suites.{name}.columns does not "
                    "name: rows are sampled with sampling.guidance, at the base's size."
                )


def _synonym_remarks(config: dict, concepts: Sequence[Concept]) -> Iterator[str]:
    """Synonyms that measure something else than another word."""
    faults: dict[str, Callable[[Concept, str], bool]] = {
        "is the concept itself": lambda concept, word: as_read(word) == as_read(concept.name),
        "holds a comma, and synonyms are separated by ';'": lambda _, word: "," in word,
    }
    for fault, test in faults.items():
        found = [(concept, word) for concept in concepts for word in concept.synonyms if test(concept, word)]
        if found:
            concept, word = found[0]
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            yield f"{config['concepts']}: the synonym {shown(word)} of {shown(concept.name)} {fault}{more}."
