"""Bad input does not get in: each case is refused in a sentence that names the place, or carried through as it is.

A case prepares files and gives a function to call. One that is refused raises what the Snakefile and the steps print as
a sentence, and writes nothing. One that is handled asserts for itself. In no case may anything of the input run: the
hostile texts and pickles would make a file called canary.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from conftest import CPU, WINDOW, model_stand_ins
from edited import record_for, tree
from lethe.__main__ import main
from lethe.bases.pipeline import describe, load_pipeline, load_text
from lethe.bases.prompts import phrase_positions
from lethe.bases.weights import projection_weights
from lethe.config.checks import check_config
from lethe.config.schema import frame, with_defaults
from lethe.edits.adapters import load_lora
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.moments import concept_moments, load_concept_moments, load_moment, moment_in_parts
from lethe.files.shards import check_images, read_cells, read_images, read_pictures, read_rows, write_shard
from lethe.files.whole import written_whole
from lethe.inputs.concepts import KINDS, Concept, read_concepts, slug_of
from lethe.inputs.priors import prior_texts
from lethe.inputs.suites import suite_rows
from lethe.inputs.templates import read_templates
from lethe.jobs import encode_argument
from lethe.messages import ConfigError
from lethe.steps.job import Job, _job
from running import ROOT, snakemake

SHIPPED = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
HEADER = "concept\tkind\tanchor\tsynonyms\n"
ROWS = "type,prompt,evaluation_seed\n"
UNET = "unet/diffusion_pytorch_model.safetensors"


class Canary:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch canary",)


PICKLE = pickle.dumps({"conv_in.bias": Canary()})
CODE = "import pathlib\npathlib.Path('canary').touch()\nclass Evil: pass\n"


@dataclass
class Place:
    """A working directory with the shipped configuration and stand-ins for its files; `outside` lies beside it."""

    root: Path
    sd: Path
    config: dict = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def put(self, place: str, value: object) -> None:
        *parents, last = place.split("|")
        node = self.config
        for key in parents:
            node = node[key]
        node[last] = value

    def base(self) -> Path:
        """A copy of the tiny Stable Diffusion folder to spoil."""
        return Path(shutil.copytree(self.sd, self.work / "base"))

    def start(self, files: tuple[Path, ...] = ()) -> tuple[list[Concept], dict[str, pd.DataFrame]]:
        """What workflow/rules/common.smk does before there is any job."""
        config = check_config(self.config, source="config/config.yaml", files=files, made=("results/",))
        concepts = read_concepts(Path(config["concepts"]))
        return concepts, {name: suite_rows(suite) for name, suite in config["suites"].items()}


Act = Callable[[], object]
Prepare = Callable[[Place], Act]


@dataclass(frozen=True)
class Case:
    """`told` are words of the refusal; a case without them is handled."""

    name: str
    prepare: Prepare
    told: tuple[str, ...] = ()


CASES: list[Case] = []


def refused(group: str, cases: dict[str, tuple], prepare: Callable[..., Prepare]) -> None:
    """Add cases: what `prepare` takes, then the words of the refusal in a tuple."""
    CASES.extend(Case(f"{group}: {name}", prepare(*given), told) for name, (*given, told) in cases.items())


def handled(group: str, cases: dict[str, tuple], prepare: Callable[..., Prepare]) -> None:
    """Add cases: what `prepare` takes."""
    CASES.extend(Case(f"{group}: {name}", prepare(*given)) for name, given in cases.items())


@pytest.fixture
def place(tmp_path: Path, sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path, sd_folder, with_defaults(SHIPPED))
    for name, text in {
        "config/concepts.tsv": HEADER + "ship\tobject\tground\tboat\n",
        "resources/emoji/objects.tsv": "object\ticon\nship\tship\n",
        "resources/emoji/reference/captions.csv": ROWS + "ship,a ship,1\n",
        "resources/emoji/reference/images.zip": "",
        **model_stand_ins(),
        "results/README.md": "",
        "../outside/mine.txt": "mine",
        **{f"resources/templates/{kind}.txt": "{}\n" for kind in ("object", "person", "style", "explicit")},
    }.items():
        place.write(name, text)
    place.config["tasks"]["objects"]["concepts"] = ["ship"]
    monkeypatch.chdir(place.work)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


def refusal(act: Act, capsys: pytest.CaptureFixture) -> str:
    """What a person reads: an error that the Snakefile or a step prints as it is, or the command's standard error."""
    try:
        code = act()
    except (ValueError, WorkflowError) as error:
        if type(error) in (ValueError, ConfigError, WorkflowError):
            return str(error)
        raise  # a subclass comes from a library, and says nothing of the file
    except SystemExit as error:  # argparse
        code = error.code
    out, said = capsys.readouterr()
    assert (code, out) == (2, ""), f"accepted: {code!r}"
    return said


# Names: whatever a concept is called, its files lie in one folder of their own, and its name comes back as it is.

NAMES = {
    "slash": "AC/DC",
    "absolute path": "/etc/shadow",
    "traversal": "../../etc/passwd",
    "parent folder": "..",
    "this folder": ".",
    "dots": "....",
    "backslashes": "..\\..\\x\\n",
    "single quote": "O'Keeffe",
    "double quotes": '"Weird Al" Yankovic',
    "command": '$(touch canary)\'s "cat"',
    "backticks": "`touch canary`",
    "semicolon": "x'; touch canary; '",
    "pipe and ampersand": "x | touch canary & touch canary",
    "redirection": "x > canary 2>&1",
    "home and variable": "~root/$HOME/${PATH}",
    "option": "--settings",
    "options": "-rf *",
    "glob": "*?[a-z]!(x)",
    "braces of wildcards": "{concept}{base}{0}",
    "braces of the prompt": "{}",
    "percent": "%s%n%(x)d",
    "comment": "#ship",
    "YAML tag": "!!python/object/apply:os.system",
    "JSON escape": '\\u0022}, "device": "cuda',
    "formula": '=HYPERLINK("http://x","y")',
    "formula of a sum": "@SUM(1+1)",
    "missing value": "NA",
    "number": "1e5",
    "right to left": "שלום עולם",
    "joiner of a script": "می\u200cخواهم",  # noqa: RUF001
    "emoji": "👩\u200d🚀 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "combining marks alone": "\u0301\u0302",
    "name of the unedited base": "original",
    "name of a device": "CON",
    "300 characters": "n" * 300,
    "formula of mathematics": "$\\frac{a}$",
}
ALIKE = ["C", "C++", "C#", "a quite long name " * 4 + "1", "a quite long name " * 4 + "2"]  # but each has its files


def as_table(*names: str) -> str:
    """A concept table with a row for each name."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerows([HEADER.split(), *([name, "object", "the sky", "boat"] for name in names)])
    return file.getvalue()


def name_travels(name: str) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write("config/concepts.tsv", as_table(name))
        place.config["tasks"]["objects"]["concepts"] = [name]

        def act() -> None:
            (concept,), suites = place.start()
            assert concept.name == name
            folder = Path("results/emoji/concepts")
            assert re.fullmatch("[a-z0-9][a-z0-9-]{0,59}", concept.slug)
            assert (folder / concept.slug).resolve().parent == folder.resolve()
            argument = encode_argument({"concept": name})
            assert not set(argument) & set("$`;|&<>~'*?!#%@=\\/()") - {"\\"}
            assert json.loads(argument) == {"concept": name}
            rows = suites["synonyms"]
            assert set(rows["type"]) == {name}
            write_shard(Path("results/shard.zip"), rows[:1], [np.zeros((2, 2, 3), np.uint8)])
            pd.testing.assert_frame_equal(read_rows(Path("results/shard.zip")), rows[:1])
            assert read_cells(Path("results/shard.zip"), "type") == [name]

        return act

    return prepare


handled("a concept's name", {key: (name,) for key, name in NAMES.items()}, name_travels)


def names_alike(place: Place) -> Act:
    place.write("config/concepts.tsv", HEADER + "".join(f"{name}\tobject\tsky\tboat\n" for name in ["ship", *ALIKE]))

    def act() -> None:
        assert len({concept.slug for concept in place.start()[0]}) == 1 + len(ALIKE)

    return act


CASES.append(Case("the concept table: names that share their first letters", names_alike))


def table(content: str | bytes) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write("config/concepts.tsv", content)
        return place.start

    return prepare


def named(name: str) -> str:
    return HEADER + f"ship\tobject\tsky\t\n{name}\tobject\tsky\t\n"


INVISIBLE = ("concepts.tsv: row 3: column concept", "line break, invisible or control character", "remove it")
refused(
    "the concept table",
    {
        "line break in a name": (named('"a\nb"'), INVISIBLE),
        "carriage return in a name": (named('"a\rb"'), INVISIBLE),
        "NUL in a name": (named("a\0b"), INVISIBLE),
        "escape sequence in a name": (named("\x1b[31mred"), INVISIBLE),
        "zero-width space in a name": (named("sh\u200bip"), (*INVISIBLE, r"sh\u200bip")),
        "soft hyphen in a name": (named("sh\xadip"), INVISIBLE),
        "direction turned in a name": (named("ship\u202egpj.exe"), INVISIBLE),
        "direction isolated in a synonym": (named("boat\u2066").replace("sky\t\n", "sky\tx\u2067\n"), ("synonyms",)),
        "tab in a name": (named("a\tb"), ("row 3: 5 cells under 4 columns", "remove a tab")),
        "spaces alone": (named(" \u00a0\u2003 "), ("row 3: column concept is empty", "or remove the row")),
        "half a surrogate pair": (
            HEADER.encode() + b"\xed\xa0\x80\tobject\tsky\t\n",
            ("concepts.tsv: row 2: these bytes are not UTF-8", "save the table as UTF-8"),
        ),
        "a name differs in case alone": (named("SHIP"), ("row 3", "share the slug ship", "reword one")),
        "a name differs in composition alone": (
            HEADER + "caf\xe9\tobject\tsky\t\ncafe\u0301\tobject\tsky\t\n",
            ("row 3", "row 2 share the slug cafe", "reword one"),
        ),
        "a name differs in a hyphen alone": (named("ship yard") + "Ship-Yard\tobject\tsky\t\n", ("row 4", "the slug")),
        "a cell of 200,000 letters": (named("x" * 200_000), ("row 3", "field larger than field limit")),
        "UTF-16": (named("x").encode("utf-16"), ("row 1: these bytes are not UTF-8",)),
        "latin-1": (named("café").encode("latin-1"), ("row 3: these bytes are not UTF-8",)),
        "a header twice": (
            HEADER[:-1] + "\tkind\nship\tobject\tsky\t\tx\n",
            ("row 1: the column kind is there twice",),
        ),
        "a quote left open": (named('"ship'), ("row 3: a quoted cell is malformed", 'by another, and double each "')),
        "a row too long": (named("a") + "b\tobject\tsky\tx\ty\n", ("row 4: 5 cells under 4 columns",)),
    },
    table,
)


def same_table(content: str) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write("config/concepts.tsv", content)

        def act() -> None:
            assert place.start()[0] == [Concept("ship", "object", "sky", ("boat",))]

        return act

    return prepare


handled(
    "the concept table",
    {
        "byte order mark": ("\ufeff" + HEADER + "ship\tobject\tsky\tboat\n",),
        "CRLF": ((HEADER + "ship\tobject\tsky\tboat\n").replace("\n", "\r\n"),),
    },
    same_table,
)


# The configuration


def key(place_: str, value: object) -> Prepare:
    def prepare(place: Place) -> Act:
        place.put(place_, value)
        return place.start

    return prepare


def renamed(section: str, name: str) -> Prepare:
    def prepare(place: Place) -> Act:
        place.config[section][name] = next(iter(place.config[section].values()))
        return place.start

    return prepare


NAMED = ("needs another name: it must be letters, digits", "as it names a folder")
refused(
    "a name in the configuration",
    {
        "traversal": ("tasks", "../x", (f"tasks.'../x' {NAMED[0]}", NAMED[1])),
        "command": ("tasks", "$(touch canary)", NAMED),
        "parent folder": ("bases", "..", NAMED),
        "hidden folder": ("suites", ".git", NAMED),
        "option": ("evaluations", "--settings", NAMED),
        "braces": ("suites", "{shard}", NAMED),
        "space": ("priors", "a b", NAMED),
        "300 characters": ("tasks", "x" * 300, (*NAMED, "at most 60 characters")),
        "the unedited base": ("tasks", "original", ("tasks.original", "not 'original'")),
        "a folder with another meaning": ("bases", "tables", ("bases.tables", "not that of another folder of results")),
        "line break": ("tasks", "x\n", (r"tasks: the key 'x\n' is no plain text", "on one line")),
    },
    renamed,
)

HUB = "is no hub id (owner/name), and there is no folder"
MODEL = "bases|emoji|model"
refused(
    "a path in the configuration",
    {
        "hub id with a traversal": (MODEL, "owner/name/../../x", ("bases.emoji.model", HUB, "correct it")),
        "hub id that ends in a folder above": (MODEL, "owner/..", (HUB,)),
        "hub id that ends in a dot": (MODEL, "owner/.", (HUB,)),
        "home": (MODEL, "~/models/sd", (HUB,)),
        "URL": (MODEL, "https://huggingface.co/owner/name", (HUB,)),
        "command": (MODEL, "owner/$(touch canary)", (HUB,)),
        "absolute path": (MODEL, "/absent/model", ("there is no folder '/absent/model'", "correct the path")),
        "hub id under a revision with a traversal": (
            "bases|emoji",
            {"model": "owner/name", "revision": "refs/../../x"},
            ("bases.emoji.model: 'refs/../../x' is no commit, tag or branch",),
        ),
        "file that looks like an option": ("templates|object", "--threads", ("templates.object", "begins with '-'")),
        "file that looks like a wildcard": ("templates|object", "{base}.txt", ("has braces like a wildcard", "rename")),
        "path of 5,000 characters": ("concepts", "x" * 5000, ("concepts: there is no file", "correct the path")),
        "path with a NUL": ("templates|style", "a\0b", (r"templates.style", r"'a\x00b'; remove it")),
        "path with half a surrogate pair": ("concepts", "a\ud800", ("concepts holds a", r"'a\ud800'; remove it")),
        "device": ("concepts", "/dev/zero", ("concepts: there is no file '/dev/zero'",)),
        "folder": ("concepts", "config", ("concepts: there is no file",)),
    },
    key,
)


def weights_as_pickle(place: Place) -> Act:
    (place.work / "resources/emoji/pipeline" / UNET).unlink()
    place.write("resources/emoji/pipeline/unet/diffusion_pytorch_model.bin", PICKLE)
    return place.start


CASES.append(
    Case(
        "a path in the configuration: model with its weights as a pickle",
        weights_as_pickle,
        ("bases.emoji.model", "only as a pickle, diffusion_pytorch_model.bin", "safe_serialization=True"),
    )
)


def from_yaml(text: str | bytes, old: str = "") -> Prepare:
    """The shipped file with `text` at its end, or in place of the line that begins with `old`, loaded by Snakemake."""

    def prepare(place: Place) -> Act:
        shipped = (ROOT / "config" / "config.yaml").read_bytes()
        new = text if isinstance(text, bytes) else text.encode()
        if old:
            new = re.sub(rb"(?m)^%s.*$" % old.encode(), new.replace(b"\\", rb"\\"), shipped)
            assert new != shipped
        else:
            new = shipped + b"\n" + new
        path = place.write("mine.yaml", new)

        def act() -> None:
            place.config = {}
            update_config(place.config, load_configfile(path))
            place.start((path,))

        return act

    return prepare


NO_YAML = ("Config file is not valid JSON or YAML",)
refused(
    "YAML",
    {
        "tag that runs a command": ("x: !!python/object/apply:os.system ['touch canary']\n", NO_YAML),
        "tag that makes an object": ("x: !!python/object/new:os.system ['touch canary']\n", NO_YAML),
        "tag that names a function": (
            "device: !!python/name:os.system\n",
            ("device must be auto",),
        ),
        "list in place of a mapping": ("tasks: [objects]\nx: 1", "tasks:", NO_YAML),
        "two documents": ("---\nseed: 1\n", NO_YAML),
        "NUL": ("x: a\0b\n", NO_YAML),
        "key that is nothing": ("? \n: x\n", ("the key null is no plain text", "put it in quotes")),
        "key twice": ("concepts: x.tsv\n", ("mine.yaml: row", "the key 'concepts' is already in row", "remove one")),
        "number out of range": ("seed: 99999999999999999999\n", ("seed must be a whole number from 0 to",)),
        "number that is none": ("seed: .nan\n", ("seed must be a whole number", "got nan")),
    },
    from_yaml,
)


# Suites, words, texts, templates


def rows_of(content: str | bytes) -> Prepare:
    def prepare(place: Place) -> Act:
        place.write("resources/emoji/reference/captions.csv", content)
        return place.start

    return prepare


SEED = "evaluation_seed must be a whole number from 0 to 9223372036854775807"
refused(
    "a suite's rows",
    {
        "negative seed": (ROWS + "a,b,1\na,b,-1\n", ("captions.csv, line 3:", SEED, "got '-1'")),
        "huge seed": (ROWS + "a,b,9223372036854775808\n", (SEED,)),
        "seed with a fraction": (ROWS + "a,b,1.5\n", (SEED, "got '1.5'")),
        "seed in other digits": (ROWS + "a,b,\u0661\n", (SEED, "got '\u0661'")),
        "no seed": (ROWS + "a,b,\n", (SEED, "got ''")),
        "seed that is NaN": (ROWS + "a,b,NaN\n", (SEED, "got 'NaN'")),
        "seed that is a formula": (ROWS + "a,b,=1+1\n", (SEED,)),
        "row too long": (ROWS + "a,b, with a comma,1\n", ("line 2: there are more cells than columns", "in quotes")),
        "every row too long": (ROWS + "0,a,b,1\n1,a,b,1\n", ("line 2: there are more cells than columns",)),
        "row too short": (ROWS + "a\n", ("line 2: there are fewer cells than columns",)),
        "header twice": (
            "type,prompt,prompt,evaluation_seed\na,b,c,1\n",
            ("line 1: the column 'prompt' is there twice",),
        ),
        "column missing": ("type,prompt\na,b\n", ("has no column 'evaluation_seed'", "Its columns")),
        "quote left open": (ROWS + 'a,"b,1\n', ("line 2: it cannot be read", "end a cell that begins")),
        "NUL": (ROWS + "a,b\0c,1\n", ("line 2: it holds a NUL", "save it as text in UTF-8")),
        "latin-1": ((ROWS + "a,café,1\n").encode("latin-1"), ("is no table in UTF-8", "save it as one")),
        "UTF-16": ((ROWS + "a,b,1\n").encode("utf-16"), ("is no table in UTF-8", "save it as one")),
        "empty file": ("", ("captions.csv' has no column 'prompt'",)),
        "header alone": (ROWS, ("the suite has no rows", "captions.csv")),
    },
    rows_of,
)


def rows_travel(content: str | bytes, *expected: tuple) -> Prepare:
    def prepare(place: Place) -> Act:
        path = place.write("resources/emoji/reference/captions.csv", content)

        def act() -> None:
            rows = suite_rows({"file": str(path)})
            assert list(rows.itertuples(index=False, name=None)) == list(expected)
            assert "reference" not in place.start()[1] or place.start()[1]["reference"].equals(rows)
            write_shard(Path("results/shard.zip"), rows, [np.zeros((2, 2, 3), np.uint8)] * len(rows))
            pd.testing.assert_frame_equal(read_rows(Path("results/shard.zip")), rows)

        return act

    return prepare


handled(
    "a suite's rows",
    {
        "byte order mark and CRLF": ("\ufeff" + (ROWS + "a,b,1\n").replace("\n", "\r\n"), ("a", "b", 1)),
        "words for nothing": (ROWS + "NA,NaN,1\nnull,,2\n", ("NA", "NaN", 1), ("null", "", 2)),
        # Ours to keep as they are, since they are prompts; results/README.md says what a spreadsheet makes of them.
        "formulas": (ROWS + "=1+1,@SUM(A1),1\n+x,-y,2\n", ("=1+1", "@SUM(A1)", 1), ("+x", "-y", 2)),
        "direction of writing": (ROWS + "a,\u202eb,1\n", ("a", "\u202eb", 1)),
        "type like a path": (ROWS + "../../x,$(touch canary),1\n", ("../../x", "$(touch canary)", 1)),
        "largest seed": (ROWS + f"a,b,{2**63 - 1}\n", ("a", "b", 2**63 - 1)),
    },
    rows_travel,
)


def text_file(name: str, read: Callable[[Path], object]) -> Callable[[str | bytes], Prepare]:
    def of(content: str | bytes) -> Prepare:
        def prepare(place: Place) -> Act:
            path = place.write(name, content)
            return lambda: read(path)

        return prepare

    return of


refused(
    "a suite's words",
    {
        "NUL": ("object\na\0b\n", ("words.tsv, line 2: it holds a NUL",)),
        "row too long": ("object\nship\na\tb\tc\n", ("words.tsv, line 3: there are more cells than columns",)),
        "latin-1": ("object\ncafé\n".encode("latin-1"), ("words.tsv, line 2: it is no text in UTF-8",)),
        "header twice": ("object\tobject\na\tb\n", ("the column 'object' is there twice",)),
    },
    text_file(
        "words.tsv", lambda path: suite_rows({"table": path, "column": "object", "prompt": "{}", "seeds": [1, 1]})
    ),
)
refused(
    "a prior's texts",
    {
        "NUL": ("text\na\0b\n", ("texts.csv, line 2: it holds a NUL",)),
        "row too long": ("text\na,b\n", ("texts.csv, line 2: there are more cells than columns", "in quotes")),
        "quote left open": ('text\n"a\n', ("texts.csv, line 2: it cannot be read",)),
    },
    text_file("texts.csv", lambda path: prior_texts({"file": str(path), "column": "text"})),
)
refused(
    "COCO's captions",
    {
        "no JSON": (PICKLE, ("coco.json: this is no JSON", "name a COCO caption file")),
        "nested a hundred thousand deep": ("[" * 100_000, ("coco.json: its JSON is nested too deep", "name a COCO")),
    },
    text_file("coco.json", lambda path: prior_texts({"coco": [str(path)]})),
)
refused(
    "templates",
    {
        "escape sequence": ("a \x1b[31m{}\n", ("words.txt, line 1", "invisible or control character; remove it")),
        "byte order mark inside": ("a {}\n\ufeffthe {}\n", ("words.txt, line 2", "invisible or control character")),
        "latin-1": ("a {}\ncafé {}\n".encode("latin-1"), ("words.txt, line 2: it is no text in UTF-8",)),
        "format": ("a {0} {name}\n", ("words.txt, line 1: a template must contain {} exactly once",)),
    },
    text_file("words.txt", read_templates),
)


def template_travels(place: Place) -> Act:
    path = place.write("words.txt", "\ufeffa {} of {0} and $(touch canary)\r\n")

    def act() -> None:
        assert read_templates(path) == ["a {} of {0} and $(touch canary)"]

    return act


CASES.append(Case("templates: byte order mark, CRLF and other braces", template_travels))


# Shards and other archives


def image_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG that says it is this large."""
    content = image_bytes(Image.new("L", (1, 1)))
    header = struct.pack(">II", width, height) + content[24:29]
    check = struct.pack(">I", __import__("zlib").crc32(b"IHDR" + header))
    return content[:16] + header + check + content[33:]


GOOD = image_bytes(Image.new("RGB", (4, 4)))
SHARD_ROWS = "row,type,prompt,evaluation_seed\n0,ship,a ship,1\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(canary) (w) file closefile\n%%EOF\n"


def zipped(*members: tuple[str | zipfile.ZipInfo, str | bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def shard_with(image: bytes) -> bytes:
    return zipped(("rows.csv", SHARD_ROWS), ("000000.png", image))


def declared(content: bytes, size: int) -> bytes:
    """An archive whose first member says it takes `size` bytes."""
    at = content.index(b"PK\1\2") + 24
    content = content[:22] + struct.pack("<I", size) + content[26:]
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, str]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


refused(
    "a shard",
    {
        "no archive": (b"rows", ("shard.zip: this is no zip archive", "make it again")),
        "empty": (b"", ("shard.zip: this is no zip archive",)),
        "cut short": (shard_with(GOOD)[:-30], ("shard.zip: this is no zip archive, or a damaged one",)),
        "damaged inside": (
            shard_with(GOOD).replace(b"a ship", b"b ship"),
            ("shard.zip: this is no zip archive, or a damaged one", "CRC"),
        ),
        "rows missing": (zipped(("000000.png", GOOD)), ("shard.zip: There is no item named 'rows.csv'",)),
        "rows as a link": (
            zipped(link("rows.csv", "../../outside/mine.txt"), ("000000.png", GOOD)),
            ("shard.zip: rows.csv: the column type is missing",),
        ),
        "image missing": (zipped(("rows.csv", SHARD_ROWS)), ("shard.zip: There is no item named '000000.png'",)),
        "image as a link": (
            zipped(("rows.csv", SHARD_ROWS), link("000000.png", "/etc/passwd")),
            ("shard.zip: 000000.png is no PNG that can be read",),
        ),
        "rows that promise four gigabytes": (
            declared(shard_with(GOOD), (1 << 32) - 2),
            ("shard.zip: rows.csv takes 4294967294 bytes, more than 268435456", "split it"),
        ),
        "row like a path": (
            zipped(("rows.csv", SHARD_ROWS.replace("0,", "../../x,")), ("../../x.png", GOOD)),
            ("shard.zip: rows.csv, line 2: row must be a whole number", "got '../../x'"),
        ),
        "row twice": (
            zipped(("rows.csv", SHARD_ROWS + "0,ship,a ship,2\n"), ("000000.png", GOOD)),
            ("rows.csv, line 3: row 0 is already in line 2",),
        ),
        "image of 900 million pixels": (shard_with(png_of(30_000, 30_000)), ("000000.png is no PNG", "decompression")),
        "text as an image": (shard_with(b"image"), ("000000.png is no PNG that can be read",)),
        "pickle as an image": (shard_with(PICKLE), ("000000.png is no PNG that can be read",)),
        "PostScript as an image": (shard_with(POSTSCRIPT), ("000000.png is no PNG that can be read",)),
        "JPEG as an image": (shard_with(image_bytes(Image.new("RGB", (4, 4)), "JPEG")), ("000000.png is no PNG",)),
        "image cut short": (
            shard_with(image_bytes(Image.effect_noise((64, 64), 50))[:900]),
            ("000000.png is no PNG that can be read", "truncated"),
        ),
        "image of a palette": (shard_with(image_bytes(Image.new("P", (4, 4)))), ("a PNG of mode P, not L or RGB",)),
        "image of 16 bits": (
            shard_with(image_bytes(Image.fromarray(np.full((4, 4), 999, np.uint16)))),
            ("a PNG of mode I;16, not L or RGB", "save it with 8 bits"),
        ),
    },
    text_file("shard.zip", read_images),
)


def twice(place: Place) -> Act:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(("rows.csv", SHARD_ROWS), ("000000.png", GOOD), ("000000.png", PICKLE))
    path = place.write("shard.zip", content)
    return lambda: read_images(path)


def no_rows(place: Place) -> Act:
    path = place.write(
        "shard.zip", zipped(("rows.csv", SHARD_ROWS.replace("ship,a", "ship,a,a")), ("000000.png", GOOD))
    )
    return lambda: read_cells(path, "row")


def to_measure(content: bytes) -> Prepare:
    """Images of others go to CLIP through clean-fid, which would open any format."""

    def prepare(place: Place) -> Act:
        path = place.write("real.zip", content)
        return lambda: check_images(path, ["000000.png"]) or list(read_pictures(path, ["000000.png"]))

    return prepare


CASES += [
    Case("a shard: image twice", twice, ("shard.zip: it holds '000000.png' twice", "make it again")),
    Case("a shard: rows ragged", no_rows, ("shard.zip: rows.csv, line 2: there are more cells than columns",)),
]
refused(
    "images to measure",
    {
        "PostScript": (shard_with(POSTSCRIPT), ("real.zip: 000000.png is no PNG",)),
        "900 million pixels": (shard_with(png_of(30_000, 30_000)), ("real.zip: 000000.png is no PNG", "decompression")),
        "16 bits": (
            shard_with(image_bytes(Image.fromarray(np.full((4, 4), 999, np.uint16)))),
            ("real.zip: 000000.png has more than 8 bits a channel",),
        ),
    },
    to_measure,
)


def members_elsewhere(place: Place) -> Act:
    names = ["../evil.png", "/tmp/evil.png", "..\\evil.png", "canary/"]
    others = [(name, GOOD) for name in names] + [link("000001.png", str(place.outside))]
    path = place.write("results/shard.zip", zipped(("rows.csv", SHARD_ROWS), ("000000.png", GOOD), *others))

    def act() -> None:
        (image,) = read_images(path)
        assert image.shape == (4, 4, 3)

    return act


CASES.append(Case("a shard: members named elsewhere are never unpacked", members_elsewhere))


# Safetensors


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, which may say it is `length` bytes long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(*offsets: int, shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


NO_FILE = ("file.safetensors: this is no safetensors file, or only a part of one",)
LIES = {
    "pickle": (PICKLE, NO_FILE),
    "empty": (b"", NO_FILE),
    "header longer than the file": (raw({"a": tensor(0, 4)}, bytes(4), 1 << 40), NO_FILE),
    "header of 2^64 bytes": (raw({"a": tensor(0, 4)}, bytes(4), (1 << 64) - 1), NO_FILE),
    "header that is no object": (raw([1, 2]), NO_FILE),
    "header that is no JSON": (raw(b"{]"), NO_FILE),
    "offsets past the end": (raw({"a": tensor(0, 400, shape=(100,))}, bytes(4)), NO_FILE),
    "offsets that overlap": (raw({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), NO_FILE),
    "offsets backwards": (raw({"a": tensor(4, 0)}, bytes(4)), NO_FILE),
    "shape larger than its bytes": (raw({"a": tensor(0, 4, shape=(1 << 40, 1 << 40))}, bytes(4)), NO_FILE),
    "unknown number format": (raw({"a": tensor(0, 4, dtype="PICKLE")}, bytes(4)), NO_FILE),
}
for kind, load in {
    "an edit": Edit.load,
    "a LoRA": load_lora,
    "a prior": load_moment,
    "moments": load_concept_moments,
}.items():
    chosen = LIES if kind == "an edit" else {name: LIES[name] for name in ("pickle", "header longer than the file")}
    refused(kind, chosen, text_file("file.safetensors", load))


def tensors(load: Callable[[Path], object]) -> Callable[..., Prepare]:
    def of(held: dict[str, torch.Tensor], record: object = None) -> Prepare:
        def prepare(place: Place) -> Act:
            path = place.work / "file.safetensors"
            text = record if isinstance(record, str) else json.dumps(record)
            save_file(
                {name: tensor.clone() for name, tensor in held.items()},
                path,
                None if record is None else {"lethe": text},
            )
            return lambda: load(path)

        return prepare

    return of


RECORD = {
    "step": "mace",
    "base": {"name": "tiny", "model": "some/folder", "fingerprint": "f" * 64},
    "concepts": ["ship"],
    "edit": {"format": 1, "form": "weights"},
}
WEIGHTS = {"conv_in.bias": torch.ones(16)}
BIAS = "file.safetensors: conv_in.bias holds something other than finite floating-point numbers"
refused(
    "an edit",
    {
        "without a record": (WEIGHTS, None, ("file.safetensors: this is no edit",)),
        "record that is no JSON": (WEIGHTS, "{", ("file.safetensors: the record in its header is no JSON",)),
        "record that is no object": (WEIGHTS, [1], ("the record in its header is no JSON object",)),
        "record nested deep": (WEIGHTS, '{"a":' * 500 + "1" + "}" * 500, ("nested more than 64 levels deep",)),
        "record nested deeper": (WEIGHTS, "[" * 100_000, ("the record in its header is no JSON",)),
        "record without a base": (WEIGHTS, RECORD | {"base": None}, ("does not say which base the edit was made for",)),
        "record without a format": (WEIGHTS, RECORD | {"edit": {}}, ("its header names no format",)),
        "record with a variant like a path": (
            WEIGHTS,
            RECORD | {"base": RECORD["base"] | {"variant": "/../../x"}},
            ("the header's variant of the base, '/../../x', is no name",),
        ),
        "record whose settings are a list": (WEIGHTS, RECORD | {"settings": [1]}, ("settings are no JSON object",)),
        "NaN": ({"conv_in.bias": torch.full((16,), torch.nan)}, RECORD, (BIAS,)),
        "infinity": ({"conv_in.bias": torch.full((16,), torch.inf).half()}, RECORD, (BIAS,)),
        "NaN in eight bits": ({"conv_in.bias": torch.full((16,), torch.nan).to(torch.float8_e4m3fn)}, RECORD, (BIAS,)),
        "whole numbers": ({"conv_in.bias": torch.ones(16, dtype=torch.int64)}, RECORD, (BIAS,)),
        "no tensors": ({}, RECORD, ("the edit changes nothing",)),
    },
    tensors(Edit.load),
)
refused(
    "a LoRA",
    {
        "half of a pair": ({"unet.a.lora.down.weight": torch.ones(1, 2)}, ("file.safetensors: load_lora: a has none",)),
        "factors that do not fit": (
            {"unet.a.lora.down.weight": torch.ones(1, 2), "unet.a.lora.up.weight": torch.ones(3, 2)},
            ("file.safetensors: a must have down [n, d] and up [out, n]; got [1, 2], [3, 2]",),
        ),
        "NaN": ({"unet.a.lora.down.weight": torch.full((1, 2), torch.nan)}, ("a.lora.down.weight holds something",)),
        "no tensors": ({}, ("file.safetensors: this is no adapter",)),
    },
    tensors(load_lora),
)
SQUARE = torch.eye(3, dtype=torch.float64)
refused(
    "a prior",
    {
        "no square": ({"moment": SQUARE[:2]}, {"tokens": 4}, ("it must hold moment, square matrices", "make it again")),
        "float32": ({"moment": SQUARE.float()}, {"tokens": 4}, ("file.safetensors: it must hold moment",)),
        "another name": ({"matrix": SQUARE}, {"tokens": 4}, ("it holds matrix [3, 3]",)),
        "tokens that are no number": ({"moment": SQUARE}, {"tokens": "4"}, ("over how many tokens it sums",)),
        "without a record": ({"moment": SQUARE}, None, ("over how many tokens it sums",)),
    },
    tensors(load_moment),
)
refused(
    "moments",
    {
        "one missing": ({"source": SQUARE, "cross": SQUARE}, ("it must hold source, cross, fusion",)),
        "of two sizes": (
            {"source": SQUARE, "cross": SQUARE, "fusion": torch.eye(4, dtype=torch.float64)},
            ("square matrices of one size in float64",),
        ),
        "infinity": ({"source": SQUARE / 0, "cross": SQUARE, "fusion": SQUARE}, ("source holds something other",)),
    },
    tensors(load_concept_moments),
)


def onto(change: dict) -> Prepare:
    """An edit applied to the tiny base's U-Net."""

    def prepare(place: Place) -> Act:
        unet = UNet2DConditionModel.from_pretrained(place.sd / "unet")
        before = {name: weight.clone() for name, weight in unet.state_dict().items()}
        edit = WeightEdit(change, {k: v for k, v in RECORD.items() if k != "edit"})

        def act() -> None:
            try:
                edit.install(
                    SimpleNamespace(unet=unet), base_fingerprint="f" * 64 if "conv_in.bias" not in change else "e" * 64
                )
            finally:
                assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())

        return act

    return prepare


refused(
    "an edit applied",
    {
        "for another base": (WEIGHTS, ("the edit was made for base tiny (ffffffffffff)", "make the edit again")),
        "to a parameter that is not there": (
            {"up.x.weight": torch.ones(2)},
            ("the base has no parameter up.x.weight",),
        ),
        "to another shape": (
            {"conv_out.bias": torch.ones(9)},
            ("conv_out.bias is [9] in the edit and [4] in the base",),
        ),
    },
    onto,
)


# Bases


def pipeline_of(base: Path) -> object:
    return load_pipeline(str(base), None, device=CPU, precision="float32")


def text_of(base: Path) -> object:
    return load_text(str(base), None, device=CPU, precision="float32")


def weights_of(base: Path) -> object:
    return projection_weights(str(base), None)


def spoilt(change: Callable[[Path], object], load: Callable[[Path], object]) -> Prepare:
    def prepare(place: Place) -> Act:
        base = place.base()
        change(base)
        return lambda: load(base)

    return prepare


def index(**values: object) -> Callable[[Path], object]:
    def change(base: Path) -> None:
        path = base / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def with_file(name: str, content: str | bytes, then: Callable[[Path], object] = lambda base: None) -> Callable:
    def change(base: Path) -> None:
        (base / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        then(base)

    return change


def only_pickle(part: str, old: str, new: str) -> Callable[[Path], object]:
    return with_file(f"{part}/{new}", PICKLE, lambda base: (base / part / old).unlink())


def infinite(base: Path) -> None:
    weights = projection_weights(str(base), None)
    save_file({f"{name}.weight": weight / 0 for name, weight in weights.items()}, base / UNET)


def shards_elsewhere(base: Path) -> None:
    name = "mid.attn2.to_k.weight"
    content = {"weight_map": {name: "../../../outside/secret.safetensors"}}
    (base / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(content))


BIN = "diffusion_pytorch_model.bin"
CLASSES = "a base must be made of classes of diffusers and transformers alone"
refused(
    "a base",
    {
        "U-Net only as a pickle": (
            only_pickle("unet", "diffusion_pytorch_model.safetensors", BIN),
            pipeline_of,
            ("base: it does not load", "whose weights are safetensors"),
        ),
        "U-Net only as a pickle, for its projections": (
            only_pickle("unet", "diffusion_pytorch_model.safetensors", BIN),
            weights_of,
            ("there is no such safetensors file",),
        ),
        "text encoder only as a pickle": (
            only_pickle("text_encoder", "model.safetensors", "pytorch_model.bin"),
            text_of,
            ("base: it does not load", "whose weights are safetensors"),
        ),
        "pickle renamed to safetensors": (with_file(UNET, PICKLE), pipeline_of, ("base: it does not load",)),
        "pickle renamed, for its projections": (
            with_file(UNET, PICKLE),
            weights_of,
            (f"{UNET}: this is no safetensors file",),
        ),
        "text encoder's pickle renamed": (
            with_file("text_encoder/model.safetensors", PICKLE),
            text_of,
            ("base: it does not load",),
        ),
        "class of another package": (
            index(unet=["subprocess", "Popen"]),
            pipeline_of,
            ("model_index.json names 'Popen' of 'subprocess' for unet", CLASSES),
        ),
        "class of a module in its folder": (
            with_file("unet/evil.py", CODE, index(unet=["evil", "Evil"])),
            pipeline_of,
            ("names 'Evil' of 'evil' for unet", CLASSES),
        ),
        "module in its folder called diffusers": (
            with_file("unet/diffusers.py", CODE),
            pipeline_of,
            ("contains custom code in diffusers.py",),
        ),
        "pipeline of its own": (
            with_file("pipeline.py", CODE, index(_class_name=["pipeline", "Evil"])),
            pipeline_of,
            ("names the pipeline ['pipeline', 'Evil']", "one of diffusers' own"),
        ),
        "unknown pipeline": (index(_class_name="Evil"), pipeline_of, ("names the pipeline 'Evil'",)),
        "part whose name is a path": (
            index(**{"../../outside": ["diffusers", "UNet2DConditionModel"]}),
            text_of,
            ("model_index.json must list each part by a plain name", "'../../outside'"),
        ),
        "index that is a list": (with_file("model_index.json", "[]"), text_of, ("must hold a JSON object",)),
        "index that is no JSON": (
            with_file("model_index.json", PICKLE),
            describe_of := lambda base: describe(str(base), None),
            ("model_index.json: this is no JSON",),
        ),
        "configuration without what it must say": (
            with_file("unet/config.json", "{}"),
            describe_of,
            ("unet/config.json has no 'cross_attention_dim'",),
        ),
        "shards elsewhere": (shards_elsewhere, weights_of, ("its shards must be files beside it",)),
        "projections that are infinite": (infinite, weights_of, ("holds something other than finite",)),
    },
    spoilt,
)


def code_in_a_tokenizer(place: Place) -> Act:
    base = place.base()
    path = base / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (base / "tokenizer/evil.py").write_text(CODE)

    def act() -> None:
        assert type(text_of(base).tokenizer).__name__ == "CLIPTokenizer"

    return act


CASES.append(Case("a base: code that a tokenizer names is not run", code_in_a_tokenizer))


# The command


def command(*words: str, spoil: Callable[[Path], object] = lambda base: None) -> Prepare:
    """`lethe` with an edit of the tiny base in edit.safetensors, and that base in the folder base."""

    def prepare(place: Place) -> Act:
        base = place.base()
        WeightEdit(WEIGHTS, record_for(base)).save(place.work / "edit.safetensors")
        (place.outside / "empty").mkdir()
        (place.work / "link").symlink_to(place.outside / "empty")
        (place.work / "dangling").symlink_to(place.outside / "absent")
        place.write("pickle.safetensors", PICKLE)
        spoil(base)
        return lambda: main(words)

    return prepare


APPLY = ("apply", "--edit", "edit.safetensors", "--out", "out", "--base")
OUT = ("apply", "--edit", "edit.safetensors", "--base", "base", "--out")
refused(
    "lethe",
    {
        "hub id with a traversal": (*APPLY, "owner/../../x", ("'owner/../../x' is no hub id",)),
        "URL": (*APPLY, "https://huggingface.co/owner/name", ("is no hub id (owner/name)",)),
        "home": (*APPLY, "~/x", ("lethe: ~/x: there is no such folder", "is no hub id")),
        "revision with a traversal": (*APPLY, "owner/name", "--revision", "../../x", ("'../../x' is no commit, tag",)),
        "revision like an option": (*APPLY, "owner/name", "--revision=--force", ("'--force' is no commit, tag",)),
        "folder that is a link to a folder": (*OUT, "link", ("link: it is a link; name the folder to write itself",)),
        "folder that is a link to nothing": (*OUT, "dangling", ("dangling: it is a link",)),
        "folder that is full": (*OUT, "config", ("config: it is there already",)),
        "folder inside a file": (*OUT, "edit.safetensors/out", ("edit.safetensors",)),
        "edit that is a pickle": ("show", "pickle.safetensors", ("pickle.safetensors: this is no safetensors file",)),
        "edit that is a folder": ("show", "config", ("config: there is no such safetensors file",)),
        "edit like an option": ("show", "--settings", ("lethe", "unrecognized arguments|required")),
        "rank that is no number": ("lora", *OUT[1:], "out", "--rank", "$(touch canary)", ("invalid int value",)),
    },
    lambda *words: command(*words),
)
refused(
    "lethe, with a base whose",
    {
        "index names a folder above": (
            index(**{"../../outside": ["diffusers", "X"]}),
            ("model_index.json must list each part by a plain name",),
        ),
        "weights are a pickle renamed": (with_file(UNET, PICKLE), ("this is no safetensors file",)),
        "earlier records are no list": (with_file("lethe.json", '{"a": 1}'), ("lethe.json: it must be the list",)),
        "index is a list": (with_file("model_index.json", "[]"), ("must hold a JSON object",)),
    },
    lambda spoil: command(*APPLY, "base", spoil=spoil),
)


# Links and long names


def through_a_link_of_results(place: Place) -> Act:
    """People keep results on another disk."""
    shutil.rmtree(place.work / "results")
    (place.outside / "disk").mkdir()
    (place.work / "results").symlink_to(place.outside / "disk")

    def act() -> None:
        with written_whole(Path("results/deep/x.txt")) as part:
            part.write_text("x")
        assert tree(place.outside / "disk") == {"deep/x.txt": b"x"}
        shutil.rmtree(place.outside / "disk")

    return act


def over_a_link(place: Place) -> Act:
    """An output that is a link to a file outside is replaced, and that file stays as it is."""
    (place.work / "results/x.txt").symlink_to(place.outside / "mine.txt")

    def act() -> None:
        with written_whole(Path("results/x.txt")) as part:
            part.write_text("x")
        assert not Path("results/x.txt").is_symlink()
        assert Path("results/x.txt").read_text() == "x"

    return act


def parts_in_a_link(place: Place) -> Act:
    """What is in the folder of a prior's parts is removed."""
    (place.work / "results/parts").symlink_to(place.outside)
    return lambda: moment_in_parts(lambda texts: [], ["a"], Path("results/parts"), made_by={})


CASES += [
    Case("a link: results on another disk", through_a_link_of_results),
    Case("a link: an output", over_a_link),
    Case("a link: a folder to clear", parts_in_a_link, ("results/parts: it is a link", "remove the link")),
]


def test_a_name_too_long_for_the_text_encoder_is_refused(text) -> None:
    """Its length in tokens is known once the base's tokenizer is loaded: the first step that reads the name says so."""
    name = "a very long name " * 20
    for act in (
        lambda: phrase_positions(text.tokenizer, "a photo of {}", name),
        lambda: concept_moments(text, name, "the sky", ["a photo of {}"]),
    ):
        with pytest.raises(ValueError, match=f"the text encoder reads {WINDOW}: use a shorter name or template"):
            act()


def test_text_in_tables_of_results_is_ours_alone() -> None:
    """A spreadsheet takes a cell that begins with = + - @ for a formula: the table of numbers holds names that the
    schema allows for methods and tasks, and numbers, nothing else."""
    names = [frame()["$defs"][name]["pattern"] for name in ("method_name", "task_name")]
    for begin in "=+-@":
        assert not any(re.match(pattern, f"{begin}cmd") for pattern in names)


def test_the_cases_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_bad_input(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    act = case.prepare(place)
    before = tree(place.root)
    if case.told:
        said = refusal(act, capsys)
        for words in case.told:
            assert any(option in said for option in words.split("|")), said
        assert "Traceback" not in said
        assert tree(place.root) == before
    else:
        act()
        after = tree(place.root)
        assert {name: after.get(name) for name in before} == before | {
            name: after.get(name) for name in before if name.startswith("work/results/")
        }
        assert all(name.startswith("work/results/") for name in after.keys() - before.keys())
    assert not list(place.root.rglob("canary*"))


# Nothing of it reaches a shell

STUB = """#!{python} -IS
import json, os, pathlib, sys, uuid
if sys.argv[1] == "-c":  # whether it can run the steps
    sys.exit()
call = json.dumps([os.environ["PYTHONPATH"], *sys.argv[1:]])
pathlib.Path({calls!r}, uuid.uuid4().hex).write_text(call)
for option, name, path in zip(sys.argv, sys.argv[1:], sys.argv[2:]):
    if option == "--out" and name == "sheets":
        pathlib.Path(path).mkdir()
    elif option == "--out":
        pathlib.Path(path).write_text("made")
"""


def test_every_rule_hands_hostile_texts_to_its_step_as_they_are(
    tmp_path: Path, sd_folder: Path, clip_folder: Path, clipseg_folder: Path
) -> None:
    """A whole run of the Snakefile, with a `python` that writes down what it is called with and makes the outputs."""
    odd = 'it\'s $(touch canary) `touch canary` "q" \\n %s; touch canary'
    work, clone, calls = tmp_path / (odd + " {base}"), tmp_path / f"clone {odd}", tmp_path / "calls"
    (work / "config").mkdir(parents=True)
    calls.mkdir()
    clone.symlink_to(ROOT)
    names = list(NAMES.values())
    (work / "config" / "concepts.tsv").write_text(as_table(*names))
    for name, source in {"sd": sd_folder, "clip": clip_folder, "clipseg": clipseg_folder}.items():
        (work / f"{name} {odd}").symlink_to(source)
    files = {kind: f"{kind} {odd}.txt" for kind in KINDS}
    files |= {"rows": f"rows {odd}.csv", "classes": f"classes {odd}.tsv", "images": f"images {odd}.zip"}
    for name in files.values():
        (work / name).write_text("{}\n")
    (work / files["rows"]).write_text(ROWS + "".join(f"a,{odd.replace(chr(34), '')},{n}\n" for n in range(9)))
    (work / files["images"]).write_bytes(zipped(*((f"{odd} {n}.png", GOOD) for n in range(9))))

    config = with_defaults(SHIPPED)
    config["bases"] = {"b.a-s_e": {"model": f"./sd {odd}", "revision": None}}
    erased = [NAMES[key] for key in ("command", "traversal", "braces of wildcards", "option")]
    (work / files["classes"]).write_text("\n".join(["$(touch canary)", "ship", *erased, ""]))  # under a hostile header
    task = {"base": "b.a-s_e", "concepts": erased, "methods": ["mace"], "evaluation": "e.v-a_l"}
    config["tasks"] = {"t.a-s_k": task}
    config["templates"] = {kind: files[kind] for kind in KINDS}
    config["images"]["prompts"]["object"] = "a {} $(touch canary)'s"
    config["masks"]["clipseg"]["model"] = f"./clipseg {odd}"
    config["masks"]["prompts"]["object"] = "{} `touch canary`"
    config["priors"] = {"captions": {"file": files["rows"], "column": "prompt"}}
    config["suites"] = {
        "w.o-r_d": {"table": files["classes"], "column": "$(touch canary)", "prompt": f"{{}} {odd}", "seeds": [1, 1]},
        "rows": {"file": files["rows"]},
    }
    config["measures"] = {"j-u.d_ge": {"kind": "clip", "model": f"./clip {odd}"}}
    config["evaluations"] = {
        "e.v-a_l": {
            "kind": "objects",
            "clip": "j-u.d_ge",
            "classes": {"table": files["classes"], "column": "$(touch canary)"},
            "class_prompt": f"{{}} {odd}",
            "reference_images": files["images"],
            **dict.fromkeys(("erased", "generality", "kept"), "w.o-r_d"),
            "quality": "rows",
        }
    }
    (work / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(STUB.format(python=os.path.realpath(sys.executable), calls=str(calls)))
    stub.chmod(0o755)
    before = tree(tmp_path)

    targets = ["all", *(f"results/b.a-s_e/concepts/{slug_of(name)}/moments.safetensors" for name in names)]
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    run = snakemake(work, "--cores", "2", *targets, rules=clone / "Snakefile", environment={"PATH": path})
    assert run.returncode == 0, run.stdout + run.stderr
    made = {name for name in tree(tmp_path).keys() - before.keys() if not name.startswith("calls/")}
    assert all(
        name.startswith(tuple(f"{work.name}/{part}/" for part in ("results", "logs", ".snakemake"))) for name in made
    )
    assert not list(tmp_path.rglob("canary*"))

    steps: dict[str, list[Job]] = {}
    for path in calls.iterdir():
        library, dash, frame, *words = json.loads(path.read_text())
        assert (Path(library).resolve(), dash, frame) == (ROOT / "workflow", "-m", "lethe.steps.job")
        call, _ = _job(words)
        steps.setdefault(call.step, []).append(call)
    told = {call.settings.concept: call for call in steps["moments"]}
    assert set(told) == set(names)
    for name, call in told.items():
        assert call.read("templates") == Path(files["object"])
        assert call.settings.text["model"] == f"./sd {odd}"
        assert call.out["moments"] == Path(f"results/b.a-s_e/concepts/{slug_of(name)}/moments.safetensors")
    assert sorted(steps["mask_sheets"][0].settings.concepts) == sorted(erased)
    assert {call.settings.masks["prompt"] for call in steps["masks"]} == {"{} `touch canary`"}
    assert sorted(concept["name"] for concept in steps["edit"][0].settings.concepts) == sorted(erased)
    (classes,) = steps["texts"]
    assert classes.read("table") == Path(files["classes"])
    assert classes.settings.column == "$(touch canary)"
    assert classes.settings.prompt == f"{{}} {odd}"
    assert Path(files["images"]) in [call.read("images") for call in steps["measure"] if "images" in call.reads]
    (prior,) = steps["prior"]
    assert prior.read("sources") == Path(files["rows"])
    assert prior.settings.text["model"] == f"./sd {odd}"
    suites = [call.settings.rows for call in steps["sample"]]
    assert config["suites"]["w.o-r_d"] in suites
