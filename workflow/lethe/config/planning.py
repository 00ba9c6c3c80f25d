"""What is known when planning: numbers that could have no images, and what is worth a word before hours of work.

`check_plan` refuses; `remarks` are sentences for a person, about what runs but may not be meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lethe.config.checks import ROLES
from lethe.files.shards import picture_names
from lethe.files.tables import as_read, read_header, separator_of
from lethe.inputs.concepts import Concept, read_concepts
from lethe.inputs.suites import class_names, settings_elsewhere, suite_file, suite_rows
from lethe.inputs.templates import read_templates
from lethe.messages import ConfigError, shown

COUNTED = {"erased": "acc_e", "generality": "acc_g", "kept": "acc_s"}  # the number that a role's rows count towards
EMBEDDED = "resources/emoji"  # whose models and tables know the emoji world and nothing else


@dataclass(frozen=True)
class Measured:
    """A task as it is measured: its name, what it erases, and the name, settings and classes of its evaluation."""

    task: str
    erased: Sequence[Concept]
    evaluation: str
    chosen: dict
    classes: Sequence[str]

    def counts(self, role: str) -> set[str]:
        """The types of a role's rows that count."""
        names = {concept.name for concept in self.erased}
        return set(self.classes) - names if role == "kept" else names


@dataclass(frozen=True)
class Inputs:
    """What a configuration names and files hold: concepts, the rows of suites, the classes of evaluations, by name."""

    concepts: Sequence[Concept]
    suites: Mapping[str, pd.DataFrame]
    classes: Mapping[str, Sequence[str]]


def read_inputs(config: dict, source: str = "config") -> Inputs:
    """Read what a checked configuration names.

    Raises ConfigError with what is wrong with the concept table, a suite that an evaluation uses, a class table.
    """
    concepts = read_concepts(Path(config["concepts"]))
    return Inputs(concepts, read_suites(config, source), read_classes(config, source))


def read_suites(config: dict, source: str = "config") -> dict[str, pd.DataFrame]:
    """The rows of every suite that can be read.

    Raises ConfigError with what is wrong with each that an evaluation of a task uses.
    """
    rows, problems = {}, []
    for name, suite in config["suites"].items():
        try:
            rows[name] = suite_rows(suite)
        except ValueError as error:
            told = f"suites.{name}: {str(error).removeprefix('suite_rows: ')}"
            users = [f"evaluations.{evaluation}.{role}" for evaluation, role, used in _uses(config) if used == name]
            mends = [f"{user}: null does without it" for user in users if user.endswith(".generality")]
            if users:
                problems.append(f"{source}: {'; '.join([told, *mends])}.")
    if problems:
        raise ConfigError(*problems)
    return rows


def read_classes(config: dict, source: str = "config") -> dict[str, list[str]]:
    """The classes of every evaluation. Raises ConfigError with what is wrong with their tables."""
    classes, problems = {}, []
    for name, evaluation in config["evaluations"].items():
        try:
            classes[name] = class_names(**evaluation["classes"])
        except ValueError as error:
            problems.append(f"{source}: evaluations.{name}.classes: {error}.")
    if problems:
        raise ConfigError(*problems)
    return classes


def check_plan(
    config: dict,
    concepts: Sequence[Concept],
    suites: dict[str, pd.DataFrame],
    classes: dict[str, list[str]],
    source: str = "config",
) -> None:
    """Refuse, before anything runs, what could not be measured when all has run.

    Raises ConfigError with every problem: an erased concept that is no class, a number without images, types that
    differ from a name in what `as_read` ignores, templates that cannot be read, too few images for a FID.
    """
    problems: list[str] = []
    for measured in _measured(config, concepts, classes):
        problems += _class_problems(measured)
        problems += _count_problems(measured, config, suites)
        problems += _fid_problems(measured, suites)
    problems += _type_problems(config, concepts, suites, classes)
    for path in _templates(config, concepts):
        try:
            read_templates(Path(path))
        except ValueError as error:
            problems.append(f"templates: {error}.")
    if problems:
        raise ConfigError(*(f"{source}: {problem}" for problem in dict.fromkeys(problems)))


def remarks(
    config: dict, concepts: Sequence[Concept], suites: dict[str, pd.DataFrame], classes: dict[str, list[str]]
) -> list[str]:
    """What may not be meant, a sentence each; the arguments have passed `check_plan`."""
    found: list[str] = []
    for measured in _measured(config, concepts, classes):
        found += _missing_rows(measured, suites)
        found += _contradictions(measured)
        found += _embedded(measured, config)
    found += _uncounted(config, concepts, suites, classes)
    found += _suite_remarks(config, suites)
    found += _few_templates(config, concepts)
    found += _synonym_remarks(config, concepts)
    return list(dict.fromkeys(found))


def _uses(config: dict) -> list[tuple[str, str, str]]:
    """(evaluation, role, suite) of every evaluation that a task uses."""
    used = dict.fromkeys(task["evaluation"] for task in config["tasks"].values())
    chosen = [(name, role, config["evaluations"][name][role]) for name in used for role in ROLES]
    return [use for use in chosen if use[2] is not None]


def _measured(config: dict, concepts: Sequence[Concept], classes: dict[str, list[str]]) -> Iterator[Measured]:
    by_name = {concept.name: concept for concept in concepts}
    for name, task in config["tasks"].items():
        erased, evaluation = [by_name[concept] for concept in task["concepts"]], task["evaluation"]
        yield Measured(name, erased, evaluation, config["evaluations"][evaluation], classes[evaluation])


def _some(names: Iterable[str], most: int = 5) -> str:
    """Names for a sentence, the first few of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def _where(suite: str, config: dict) -> str:
    return f"suite {suite} ({suite_file(config['suites'][suite])})"


def _class_problems(measured: Measured) -> Iterator[str]:
    """Erased concepts that are no class."""
    table, known = measured.chosen["classes"]["table"], set(measured.classes)
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


def _count_problems(measured: Measured, config: dict, suites: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Numbers that no row would count towards."""
    for role, number in COUNTED.items():
        suite, wanted = measured.chosen[role], measured.counts(role)
        if suite is None or wanted & set(suites[suite]["type"].unique()):
            continue
        types = list(suites[suite]["type"].unique())
        found = "no types" if types == [""] else f"the types {_some(types)}"
        needs = "classes that are not erased" if role == "kept" else _some(sorted(wanted))
        mend = f"write these as its types, or let suites.{suite}.columns name the column that holds them"
        if "table" in config["suites"][suite]:
            mend = "give them words there, or name another suite"
        if role == "generality":
            mend += "; generality: null leaves acc_g out"
        yield (
            f"evaluations.{measured.evaluation}.{role}: no row of {_where(suite, config)} counts towards {number} of "
            f"task {measured.task}: it has {found}, and what counts is {needs}; {mend}."
        )


def _fid_problems(measured: Measured, suites: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Too few images for a FID, where the dimensions of the judge's embeddings are known, and images that are none."""
    at, images = f"evaluations.{measured.evaluation}", measured.chosen["reference_images"]
    dimensions = _dimensions(measured.chosen["clip"]["model"])
    counts = {"quality": len(suites[measured.chosen["quality"]])}
    if not images.startswith("results/"):
        try:
            counts["reference_images"] = len(picture_names(Path(images)))
        except ValueError as error:
            yield f"{at}.reference_images: {error}."
    for key, count in counts.items():
        if dimensions is not None and count <= dimensions:
            of = f"suite {measured.chosen[key]}" if key == "quality" else images
            yield (
                f"{at}.{key}: {of} has {count} images, and fid needs more than the {dimensions} dimensions of the "
                "judge's embeddings; add some, or take a judge of fewer."
            )


def _dimensions(model: str) -> int | None:
    """How wide a CLIP's embeddings are, of a folder that says so."""
    try:
        content = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    width = content.get("projection_dim") if isinstance(content, dict) else None
    return width if isinstance(width, int) else None


def _type_problems(
    config: dict, concepts: Sequence[Concept], suites: dict[str, pd.DataFrame], classes: dict[str, list[str]]
) -> Iterator[str]:
    """Types that differ from a concept or class in capitals, space or composition alone."""
    for suite, known, unknown, _ in _unknown_types(config, concepts, suites, classes):
        alike = {as_read(name): name for name in known}
        near = {kind: alike[as_read(kind)] for kind in unknown if as_read(kind) in alike}
        if near:
            file, rows = suite_file(config["suites"][suite]), sum(unknown[kind] for kind in near)
            told = ", ".join(f"{shown(kind)} for {shown(name)}" for kind, name in list(near.items())[:5])
            where = f"types in {file} differ from names in capitals or space alone, in {rows} of its rows"
            yield f"suites.{suite}: {where}: {told}; write them the same."


def _uncounted(
    config: dict, concepts: Sequence[Concept], suites: dict[str, pd.DataFrame], classes: dict[str, list[str]]
) -> Iterator[str]:
    """Rows that are sampled and measured but count towards no number."""
    for suite, _, unknown, roles in _unknown_types(config, concepts, suites, classes):
        if unknown and "quality" not in roles:
            yield (
                f"suites.{suite}: {sum(unknown.values())} of {len(suites[suite])} rows count towards no number, since "
                f"their type is no concept or class: {_some(unknown)} ({suite_file(config['suites'][suite])})."
            )


def _unknown_types(
    config: dict, concepts: Sequence[Concept], suites: dict[str, pd.DataFrame], classes: dict[str, list[str]]
) -> Iterator[tuple[str, set[str], dict[str, int], set[str]]]:
    """Each suite whose rows are counted by type: what its types can be, the other ones with their rows, its roles."""
    known: dict[str, set[str]] = {}
    roles: dict[str, set[str]] = {}
    for evaluation, role, suite in _uses(config):
        roles.setdefault(suite, set()).add(role)
        if role in COUNTED:
            names = known.setdefault(suite, set())
            names |= set(classes[evaluation]) | ({c.name for c in concepts} if role != "kept" else set())
    for suite, names in known.items():
        counts = suites[suite]["type"].value_counts(sort=False)
        yield suite, names, {kind: int(n) for kind, n in counts.items() if kind not in names}, roles[suite]


def _templates(config: dict, concepts: Sequence[Concept]) -> list[str]:
    """The template files of the kinds that a task erases."""
    erased = {name for task in config["tasks"].values() for name in task["concepts"]}
    return sorted({config["templates"][concept.kind] for concept in concepts if concept.name in erased})


def _few_templates(config: dict, concepts: Sequence[Concept]) -> Iterator[str]:
    used = config["mace"]["templates_used"]
    for path in _templates(config, concepts):
        count = len(read_templates(Path(path)))
        if count < used:
            yield f"mace.templates_used is {used}, and {path} holds {count}: training uses these {count}."


def _missing_rows(measured: Measured, suites: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Erased concepts that a suite shows nothing of, where it shows others."""
    for role in ("erased", "generality"):
        suite = measured.chosen[role]
        types = set() if suite is None else set(suites[suite]["type"].unique())
        missing = [concept.name for concept in measured.erased if concept.name not in types]
        if suite is not None and missing:
            yield (
                f"tasks.{measured.task}: {COUNTED[role]} says nothing of {len(missing)} of its {len(measured.erased)} "
                f"concepts, since suite {suite} has no row of the type {_some(missing)}."
            )


def _contradictions(measured: Measured) -> Iterator[str]:
    """Anchors that are erased, too, and kept classes that are to vanish as another word for what is erased."""
    at, names = f"tasks.{measured.task}", {_plain(concept.name): concept for concept in measured.erased}
    words = {_plain(word): concept for concept in measured.erased for word in concept.synonyms}
    anchors = {concept.name: names.get(_plain(concept.anchor)) for concept in measured.erased}
    for concept in measured.erased:
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
    for name in measured.classes:
        if _plain(name) in words and _plain(name) not in names:
            yield (
                f"{at}: the class {shown(name)} ({measured.chosen['classes']['table']}) counts as kept, and as a "
                f"synonym of {shown(words[_plain(name)].name)} it is to vanish; remove one of the two."
            )


def _plain(phrase: str) -> str:
    """A phrase for comparing what it means: without an article, as CLIP reads it."""
    return re.sub(r"^(a|an|the) (?=.)", "", as_read(phrase))


def _embedded(measured: Measured, config: dict) -> Iterator[str]:
    """What of the emoji world another base would meet, by the names of paths."""
    task, mace, masks = config["tasks"][measured.task], config["mace"], config["masks"]
    base = config["bases"][task["base"]]["model"]
    at, chosen = f"evaluations.{measured.evaluation}", measured.chosen
    met = {f"mace.{key}": _prior_file(config, mace[key]) for key in ("prior", "domain_prior")}
    if masks["segmenter"] == "clipseg" and any(concept.kind != "style" for concept in measured.erased):
        met["masks.clipseg.model"] = masks["clipseg"]["model"]
    met |= {f"{at}.clip.model": chosen["clip"]["model"], f"{at}.classes.table": chosen["classes"]["table"]}
    met[f"{at}.reference_images"] = chosen["reference_images"]
    keys = [key for key, path in met.items() if _is_embedded(path)]
    if keys and not _is_embedded(base):
        yield (
            f"tasks.{measured.task}: {', '.join(keys)} come from {EMBEDDED}, which knows its own world alone, and the "
            f"base {task['base']} ({base}) is another; name models and files made for it."
        )


def _prior_file(config: dict, prior: str | None) -> str | None:
    return None if prior is None else config["priors"][prior].get("file")


def _is_embedded(path: str | None) -> bool:
    return path is not None and f"/{EMBEDDED}/" in f"/{Path(path).as_posix()}/"


def _suite_remarks(config: dict, suites: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Suites that nothing uses, rows that repeat others, settings that stand in a file and are not read."""
    used = {suite for _, _, suite in _uses(config)}
    for name, suite in config["suites"].items():
        if name not in used:
            yield f"suites.{name}: no evaluation of a task uses it, so nothing samples it."
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
