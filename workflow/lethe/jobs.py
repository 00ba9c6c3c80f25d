"""Jobs as they are planned: a declaration gives a job's files, its command, and the digest that decides on a rerun.

No Snakemake and no torch, so that a plan is a function of a configuration and the files that it names.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lethe.messages import plain
from lethe.records.code import code_hash

PLACES = ("model", "revision", "variant")  # where a model is; what it is stands beside them as its fingerprint


@dataclass(frozen=True)
class Given:
    """A file or folder that a user gave. `content` is what of it counts: a digest, or the lines that are read.

    Its path is `spelled`, as Snakemake takes another spelling for another input and makes the outputs again.
    """

    path: str
    content: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", spelled(self.path))


@dataclass(frozen=True)
class Folder:
    """The pattern of an output that is a folder."""

    pattern: str


@dataclass(frozen=True)
class Shown:
    """An output that Snakemake's report holds: its pattern, in which category, and what it is.

    Of a folder `each` is the pattern of the files in it. Its caption is `workflow/report/<step>_<output>.rst`.
    """

    written: str | Folder
    category: str
    what: str
    each: str | None = None

    @property
    def pattern(self) -> str:
        return getattr(self.written, "pattern", self.written)


@dataclass(frozen=True)
class Made:
    """An output of a job."""

    job: Job
    output: str

    @property
    def path(self) -> str:
        return self.job.outputs[self.output]


@dataclass(frozen=True)
class Told:
    """What a job is told.

    settings: all that shapes its outputs.  reads: files by the name under which the step knows them; each is a `Given`,
    a `Made`, a `Job` with one output, a list of those, or None for none.  aside: settings that say where or how to look
    and decide nothing.  plugins: modules that the step loads by name.  doing: what it does, for a person, such as "LoRA
    of ship, 50 steps"; its step and last wildcard where that says enough.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, Any] = field(default_factory=dict)
    aside: Mapping[str, Any] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    doing: str = ""


class Job:
    """A planned job: `step` for certain wildcards."""

    def __init__(self, step: Step, names: Sequence[str], told: Told) -> None:
        self.step, self.told = step, told
        wildcards = dict(zip(step.wildcards, names, strict=True))
        self.names = names
        self.outputs = {name: pattern.format(**wildcards) for name, pattern in step.patterns.items()}
        self.reads = {name: list(_files(value)) for name, value in told.reads.items()}

    def __getitem__(self, output: str) -> Made:
        return Made(self, output)

    @property
    def modules(self) -> list[str]:
        """The modules whose code, with all that they import, makes the outputs."""
        return [self.step.module, *self.told.plugins]

    @property
    def doing(self) -> str:
        """What it does, for a person, in a few words."""
        return plain(self.told.doing) or " of ".join([self.step.name.replace("_", " "), *self.names[-1:]])

    @cached_property
    def digest(self) -> str:
        """How the outputs are made: code, settings, and the same of all that is read. Equal digests, equal outputs.

        Snakemake compares the parameters of a job only while its output is there, and a job that failed has none; so
        this holds what lies behind a job's inputs as well.
        """
        read = {
            name: [file.content if isinstance(file, Given) else [file.job.digest, file.output] for file in files]
            for name, files in self.reads.items()
        }
        known = [code_hash(*self.modules), without_places(self.told.settings), read]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @cached_property
    def command(self) -> str:
        """The command that makes the outputs, but for its threads and its log."""
        settings = {**self.told.settings, **self.told.aside, "made_by": self.digest}
        words = ["python", "-m", "lethe.frame.start", *self.modules, "--settings", encode_argument(settings)]
        for option, files in (("--read", self.reads), ("--out", {n: [p] for n, p in self.outputs.items()})):
            for name, paths in files.items():
                words += [option, name, *(getattr(path, "path", path) for path in paths)]
        return shlex.join(words)


class Step:
    """The declaration of a rule: a function of its wildcards that returns what each job is `Told`.

    It becomes a method of a plan; `plan.images(base, concept)` is a `Job`, planned once.
    """

    def __init__(
        self, declared: Callable[..., Told], writes: Mapping[str, str | Folder | Shown], module: str | None
    ) -> None:
        self.declared, self.name = declared, declared.__name__
        self.module = module or f"lethe.steps.{self.name}"
        self.writes = writes
        self.patterns = {name: getattr(pattern, "pattern", pattern) for name, pattern in writes.items()}
        self.wildcards = tuple(inspect.signature(declared).parameters)[1:]
        self.log = "/".join(["logs", self.name, *(f"{{{name}}}" for name in self.wildcards)]) + ".log"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, plan: Any, owner: type | None = None) -> Step | BoundStep:
        if plan is None:
            return self
        bound = BoundStep(self, plan)
        vars(plan)[self.name] = bound  # found first from now on
        return bound


class BoundStep:
    """A rule of one plan: call it with wildcards for a job."""

    def __init__(self, step: Step, plan: Any) -> None:
        self.step, self.plan = step, plan
        self.jobs: dict[tuple[str, ...], Job] = {}

    def __call__(self, *names: str) -> Job:
        if names not in self.jobs:
            self.jobs[names] = Job(self.step, names, self.step.declared(self.plan, *names))
        return self.jobs[names]


def step(module: str | None = None, **writes: str | Folder | Shown) -> Callable[[Callable[..., Told]], Step]:
    """Declare a rule: patterns of the files it writes, by name; the module that runs it is `lethe.steps.<name>`."""
    return lambda declared: Step(declared, writes, module)


def spelled(path: str) -> str:
    """The one spelling of a path: relative in the working directory, without `.` and doubled slashes.

    A `..` stays, as links decide what it leads to.
    """
    plain = Path(path)
    return str(plain.relative_to(Path.cwd()) if plain.is_relative_to(Path.cwd()) else plain)


def without_places(settings: Any) -> Any:
    """Settings without the folder or hub id, revision and variant of every model that has a `fingerprint`."""
    if isinstance(settings, list | tuple):
        return [without_places(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    left_out = PLACES if "fingerprint" in settings else ()
    return {key: without_places(value) for key, value in settings.items() if key not in left_out}


def encode_argument(value: Any) -> str:
    r"""Return `value` as compact JSON with sorted keys that holds nothing a shell interprets within quotes.

    Every character other than ASCII letters, digits, space and `_.,:{}[]"+-` is written as a \uXXXX escape.
    Keys of mappings must be text; tuples come back as lists.

    Raises: ValueError on NaN or an infinity; TypeError on what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return re.sub(r'\\u[0-9a-f]{4}|\\.|[^A-Za-z0-9 _.,:{}\[\]"+-]', _escape, text)


def _escape(match: re.Match) -> str:
    char = json.loads(f'"{match[0]}"') if match[0].startswith("\\") else match[0]
    return f"\\u{ord(char):04x}"


def _files(value: Any) -> Iterator[Given | Made]:
    """Files of one name, of whatever form."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _files(part)
    elif isinstance(value, Job):
        (output,) = value.outputs
        yield value[output]
    elif value is not None:
        yield value
