"""Join the measures of every edit of some tasks, by what stands in them, into a table and its record."""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from lethe.files.whole import written_whole
from lethe.measures.stored import read_measures
from lethe.plugins import manifest
from lethe.records.code import commit
from lethe.records.records import name_of
from lethe.steps.job import Job
from lethe.tables.known import one_protocol
from lethe.tables.protocols import interval, mean_interval, scaled
from lethe.tables.row import Row

IDENTITY = ["base", "edit", "suite", "measure"]


def run(job: Job) -> None:
    settings = job.settings
    table, said = importlib.import_module(f"lethe.tables.{settings.kind}"), manifest("tables", settings.kind)
    found = Measured(job, said.more)
    several = len(settings.tasks) > 1
    cells, details, images, sources, listed = [], {}, [], {}, []
    every: dict[str, list[tuple[Row, dict]]] = {}  # row of each task, by method, and the files behind it
    protocols: dict[str, str] = {}  # as the plug-in tells them, for one or more columns each
    by_task: dict[str, dict[str, str]] = {}  # that of each column, by task
    for task, told in settings.tasks:
        rows = {}
        chosen = told["evaluation"] | {"concepts": told["concepts"], "protocols": settings.protocols}
        for method, edit in told["edits"]:
            rows[method] = row = table.row(found.of(told, edit), chosen)
            name = f"{task}/{method}" if several else method
            cells.append({"edit" if several else "method": name} | row.cells)
            details[name], sources[name] = row.details, found.sources(told, edit)
            every.setdefault(method, []).append((row, sources[name]))
            if row.images is not None:
                images.append(with_pictures(row.images, told["base"]).assign(task=task, method=method))
        remedies = {method: told["remedies"].get(method) for method in rows}
        for sentence in getattr(table, "notes", lambda *_: [])(task, rows, remedies):
            job.note(1, sentence)
        columns = list(dict.fromkeys(name for row in rows.values() for name in row.numbers if name[:2] != "n_"))
        given = getattr(table, "table_protocols", lambda *_: {})(chosen, found.about(told), columns)
        protocols |= given
        for name, protocol in ((name, protocol) for names, protocol in given.items() for name in names.split(", ")):
            by_task.setdefault(name, {})[task] = protocol
        for method, row in rows.items():
            of = {name: tasks[task] for name, tasks in by_task.items() if task in tasks}
            listed += [[task, method, *line] for line in numbers_in(row, of, getattr(table, "parts_of", no_parts))]
    by_name = {name: one_protocol(name, of_tasks) for name, of_tasks in by_task.items()}
    for method, of_tasks in every.items() if several and getattr(settings, "average", False) else ():
        name, row = f"{AVERAGE}/{method}", average([row for row, _ in of_tasks])
        cells.append({"edit": name} | row.cells)
        details[name] = row.details
        sources[name] = {role: [f for _, files in of_tasks for f in files.get(role, ())] for role in said.more["roles"]}
        listed += [[AVERAGE, method, *line] for line in numbers_in(row, by_name, getattr(table, "parts_of", no_parts))]
    numbers = pd.DataFrame(cells).round(2)
    columns = list(numbers.columns[1:])
    sources_of = getattr(table, "sources_of", lambda column: getattr(table, "SOURCES", {}).get(column, ()))
    job.recorded["cells"] = {
        "columns": {column: sources_of(column) for column in columns},
        "rows": sources,
        "every_row": found.every_row(),
    }
    record = job.record(
        commit=commit(),
        bases=[json.loads(path.read_text()) for path in job.reads["bases"]],
        notes=[sentence for _, sentence in job.notes],
        details=details,
        protocols=protocols,
        parts=parts(table, numbers, details),
    )
    everything = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    everything = everything.reindex(columns=IMAGES)
    write_csv(job.out["table"], numbers)
    write_csv(job.out["numbers"], pd.DataFrame(listed, columns=NUMBERS).astype({"n": "Int64"}))
    write_csv(job.out["images"], everything.round(4))
    write_csv(job.out["concepts"], by_concept(everything, said.more["roles"], by_task))
    job.write_json("record", record)


AVERAGE = "average"  # in place of a task, over all of a table
NUMBERS = ["task", "method", "number", "value", "n", "low_95", "high_95", "protocol"]
IMAGES = ["task", "method", "role", "type", "prompt", "evaluation_seed", "predicted", "right", "probability"]
IMAGES += ["type_probability", "score", "picture"]
CONCEPTS = ["task", "method", "role", "concept", "number", "value", "n", "low_95", "high_95", "failed", "failing_seeds"]
CONCEPTS += ["taken_for", "n_taken_for", "protocol"]


def no_parts(column: str, details: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, Any]:
    """What a column is made of where a plug-in says nothing of it."""
    return {}


def numbers_in(row: Row, protocols: Mapping[str, str], parts_of: Callable[..., Mapping[str, Any]]) -> list[list[Any]]:
    """Each number of an edit: its name, itself, its n, the ends of its interval, its protocol.

    The n of a number that is made of others is the sum of theirs, unless it has one of its own.
    """
    found, lines = row.numbers, []
    for name in (name for name in found if name[:2] != "n_"):
        counts = [found.get(f"n_{part}") for part in parts_of(name, row.details, found)]
        n = found.get(f"n_{name}", sum(counts) if counts and None not in counts else None)
        low, high = row.details.get(f"{name}_interval_95") or (None, None)
        rounded = [None if number is None else round(number, 4) for number in (found[name], n, low, high)]
        lines.append([name, *rounded, protocols.get(name, "")])
    return lines


def average(rows: Sequence[Row]) -> Row:
    """The mean of each number over the rows of a method, of those that each has; n are summed.

    It has no interval: tasks may share images, as they do of the base as it is.
    """

    def mean(name: str) -> float | int:
        total = sum(row.numbers[name] for row in rows)
        return total if name[:2] == "n_" else total / len(rows)

    shared = [name for name in rows[0].numbers if all(name in row.numbers for row in rows)]
    cells = {name: mean(name) for name in shared if name in rows[0].cells}
    return Row(cells, beside={name: mean(name) for name in shared if name not in cells})


def parts(table: ModuleType, numbers: pd.DataFrame, details: Mapping[str, Any]) -> dict[str, dict[str, dict]]:
    """What cells are made of, by row and column, where the plug-in says it."""
    parts_of = getattr(table, "parts_of", no_parts)
    found = {name: {c: parts_of(c, details[name], row) for c in row} for name, row in by_first(numbers)}
    return {name: {c: made for c, made in of.items() if made} for name, of in found.items()}


def by_first(table: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a table by its first column."""
    return [(row.pop(table.columns[0]), row) for row in table.to_dict("records")]


def with_pictures(images: pd.DataFrame, base: str) -> pd.DataFrame:
    """Images with where each of them is: the zip of its shard, and its name there."""
    where = [
        f"results/{base}/samples/{row.edit}/{row.suite}/{row.shard}.zip/{row.row:06d}.png"
        for row in images.itertuples()
    ]
    return images.assign(picture=where)


def by_concept(
    images: pd.DataFrame, roles: Mapping[str, Mapping[str, Any]], protocols: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """Of each edit, role and concept: the number that its images count towards, of them alone, with `CONCEPTS`.

    `images` as `Row.images`, with task and method; `roles` is what the manifest says of each; `protocols` has that of
    each number, by task. A share is in percent, with Wilson's interval; n leaves out images in which nothing was
    recognised. Failed are images that show what was erased, or not what should stay, and of the base as it is those
    that do not show what they should: how many, and their seeds, after their prompt where there are several.
    `taken_for` is what images that are not right were taken for most often. A mean score has a bootstrap interval, and
    no image fails by it.
    """
    rows = []
    keys = ["task", "method", "role", "type"]
    for key, group in images.groupby(keys, sort=False):
        said = roles.get(key[2], {})
        number = said.get("towards", "")
        line = dict(zip(("task", "method", "role", "concept"), key, strict=True)) | dict(number=number)
        line["protocol"] = protocols.get(number, {}).get(key[0], "")
        if group["score"].notna().all():
            scores = group["score"].to_numpy(float)
            line |= _numbers(scores.mean(), len(scores), mean_interval(scores))
        else:
            seen = group[group["right"].notna()]
            right = seen["right"].astype(bool)
            hits, n = int(right.sum()), len(seen)
            bounds = scaled(interval(hits, n), 100) if n else None
            line |= _numbers(100 * hits / n if n else None, n, bounds)
            failed = seen[right if said.get("counts") == "erased" and line["method"] != "original" else ~right]
            others = seen.loc[~right, "predicted"].value_counts()
            line |= dict(failed=len(failed), failing_seeds=seeds_of(failed, prompts=group["prompt"].nunique()))
            line |= dict(taken_for=others.index[0], n_taken_for=int(others.iloc[0])) if len(others) else {}
        rows.append(line)
    whole = {"n": "Int64", "failed": "Int64", "n_taken_for": "Int64"}
    return pd.DataFrame(rows, columns=CONCEPTS).astype(whole)


def _numbers(value: float | None, n: int, bounds: Sequence[float] | None) -> dict[str, float | int | None]:
    low, high = bounds or (None, None)
    rounded = [None if number is None else round(float(number), 2) for number in (value, low, high)]
    return dict(value=rounded[0], n=n, low_95=rounded[1], high_95=rounded[2])


def seeds_of(images: pd.DataFrame, *, prompts: int = 1) -> str:
    """Seeds with spaces between them; of several prompts each with its own, as in `a cat: 1 2; a dog: 7`."""
    found = images.groupby("prompt", sort=False)["evaluation_seed"].agg(lambda seeds: " ".join(map(str, seeds)))
    return "; ".join(seeds if prompts == 1 else f"{prompt}: {seeds}" for prompt, seeds in found.items())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


class Measured:
    """What was measured, by what stands in the files of measures: base, edit, suite, shard and measure."""

    def __init__(self, job: Job, said: Mapping[str, Any]) -> None:
        self.roles = said["roles"]
        self.named: dict[str, str] = {}  # measures by the setting that names them
        for _, told in job.settings.tasks:
            keys = {by for role in self.roles.values() for by in role["measures"]}
            keys |= {*said.get("texts", {}).values(), *(by for by, _ in told["references"].values())}
            self.named |= {key: told["evaluation"][key] for key in keys if told["evaluation"][key] is not None}
        self.said, self.measured_by = said, job.settings.measures
        measures = read_measures(job.reads["measures"])
        self.none, self.measures = measures.iloc[:0], dict(list(measures.groupby(IDENTITY, sort=False)))
        self.files: dict[tuple[str, ...], list[str]] = {}  # by base, edit and suite
        for path in job.reads["measures"]:
            of = tuple(pd.read_parquet(path, columns=IDENTITY[:3]).iloc[0])
            self.files.setdefault(of, []).append(name_of(path))
        self.others = {path: pd.read_parquet(path) for path in (*job.reads["texts"], *job.reads["references"])}

    def of(self, told: Mapping[str, Any], edit: str) -> dict[str, dict[str, pd.DataFrame]]:
        """What was measured of an edit: for each role, text and reference, by the setting that names the measure.

        Raises ValueError when a shard that was asked for is not among the measures.
        """
        found: dict[str, dict[str, pd.DataFrame]] = {}
        evaluation = told["evaluation"]
        for role, said in self.roles.items():
            if (suite := evaluation[role]) is None:
                continue
            for by in (by for by in said["measures"] if evaluation[by] is not None):
                rows = self.measures.get((told["base"], edit, suite, evaluation[by]), self.none)
                if missing := set(told["shards"][suite]) - set(rows["shard"].unique()):
                    raise ValueError(
                        f"measures of {edit}, {suite} by {evaluation[by]}: shard {min(missing)} is not as planned"
                    )
                rows = rows[rows["shard"].isin(told["shards"][suite])]
                found.setdefault(role, {})[by] = rows.dropna(axis="columns", how="all")
        for name, by in self.texts(evaluation).items():
            found[name] = {by: self._other(evaluation=told["name"], texts=name, measure=evaluation[by])[1]}
        for name, (by, reference) in told["references"].items():
            found[name] = {by: self._other(reference=reference, measure=evaluation[by])[1]}
        return found

    def about(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """What else the numbers of a task depend on: the model of each measure, by the setting that names it; how many
        texts there are of each sort; what references are called."""
        named = {key: told["evaluation"][key] for key in self.named if told["evaluation"][key] is not None}
        found = {key: self.measured_by[name]["measure"].get("model") for key, name in named.items()}
        for name, by in self.texts(told["evaluation"]).items():
            found[name] = len(self._other(evaluation=told["name"], texts=name, measure=told["evaluation"][by])[1])
        return found | {key: name.rpartition("-")[0] for key, (_, name) in told["references"].items()}

    def texts(self, evaluation: Mapping[str, Any]) -> dict[str, str]:
        """The texts that an evaluation has, each with the setting that names what measures it."""
        return {key: by for key, by in self.said.get("texts", {}).items() if evaluation.get(key, "") is not None}

    def _other(self, **wanted: str) -> tuple[Path, pd.DataFrame]:
        """The file, and its content, that says that it is of what is wanted."""
        for path, table in self.others.items():
            if all(key in table and (table[key] == value).all() for key, value in wanted.items()):
                return path, table
        raise ValueError(f"no measure is of {wanted}; run snakemake again")

    def sources(self, told: Mapping[str, Any], edit: str) -> dict[str, list[str]]:
        """The files behind the row of an edit, by role."""
        suites = {role: told["evaluation"][role] for role in self.roles}
        return {
            role: self.files.get((told["base"], edit, suite), []) for role, suite in suites.items() if suite is not None
        }

    def every_row(self) -> dict[str, list[str]]:
        """The files behind every row: texts and references."""
        found: dict[str, list[str]] = {}
        for path, table in self.others.items():
            key = table["texts"].iloc[0] if "texts" in table else None
            names = [key] if key else list(self.said.get("references", {}))
            for name in names:
                found.setdefault(name, []).append(name_of(path))
        return found
