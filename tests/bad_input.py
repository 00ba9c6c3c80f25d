"""Cases of bad input: each is refused in a sentence that names the place, or carried through as it is.

They stand in the tests of the readers they belong to. A case prepares files and gives a function to call. One that is
refused raises what the Snakefile and the steps print as a sentence, and writes nothing. One that is handled asserts for
itself. In no case may anything of the input run: the hostile texts and pickles would make a file called canary.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from snakemake.exceptions import WorkflowError

from conftest import CPU, model_stand_ins
from edited import tree
from lethe.bases.pipeline import describe, load_pipeline, load_text
from lethe.bases.weights import projection_weights
from lethe.config.checks import check_config
from lethe.config.schema import with_defaults
from lethe.inputs.concepts import Concept, read_concepts
from lethe.inputs.suites import suite_rows
from lethe.messages import ConfigError
from plans import SHIPPED

HEADER = "concept\tkind\tanchor\tsynonyms\n"  # of a concept table
ROWS = "type,prompt,evaluation_seed\n"  # the header of a suite's rows
SUITE = "resources/emoji/reference/captions.csv"
UNET = "unet/diffusion_pytorch_model.safetensors"


class Canary:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch canary",)


PICKLE = pickle.dumps({"conv_in.bias": Canary()})
CODE = "import pathlib\npathlib.Path('canary').touch()\nclass Evil: pass\n"

# Whatever a concept is called, its files lie in one folder of their own, and its name comes back as it is.
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


# Cases


@dataclass
class Place:
    """A working directory with the shipped configuration and stand-ins for its files; `outside` lies beside it."""

    root: Path
    sd: Path
    config: dict = field(default_factory=lambda: with_defaults(SHIPPED))

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def fill(self) -> None:
        """Put there what the configuration names, with one concept."""
        for name, text in {
            "config/concepts.tsv": HEADER + "ship\tobject\tground\tboat\n",
            "resources/emoji/objects.tsv": "object\ticon\nship\tship\n",
            SUITE: ROWS + "ship,a ship,1\n",
            "resources/emoji/reference/images.zip": "",
            **model_stand_ins(),
            "results/README.md": "",
            "../outside/mine.txt": "mine",
        }.items():
            self.write(name, text)
        self.config["tasks"]["objects"]["concepts"] = ["ship"]

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def base(self) -> Path:
        """A copy of the tiny Stable Diffusion folder to spoil."""
        return Path(shutil.copytree(self.sd, self.work / "base"))

    def start(self, files: tuple[Path, ...] = ()) -> tuple[list[Concept], dict[str, pd.DataFrame]]:
        """Check the configuration, read its concepts and every suite's rows, as is done before there is any job."""
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

    def check(self, place: Place, capsys: pytest.CaptureFixture) -> None:
        act = self.prepare(place)
        before = tree(place.root)
        if self.told:
            said = _refusal(act, capsys)
            for words in self.told:
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


def _refusal(act: Act, capsys: pytest.CaptureFixture) -> str:
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


def refusals(group: str, cases: dict[str, tuple], prepare: Callable[..., Prepare]) -> list[Case]:
    """Cases that are refused: what `prepare` takes, then the words of the refusal in a tuple."""
    return [Case(f"{group}: {name}", prepare(*given), told) for name, (*given, told) in cases.items()]


def handled(group: str, cases: dict[str, tuple], prepare: Callable[..., Prepare]) -> list[Case]:
    """Cases that are handled: what `prepare` takes."""
    return [Case(f"{group}: {name}", prepare(*given)) for name, given in cases.items()]


def each_of(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """A test for each case, by its name."""
    assert cases
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


# What prepares cases


def started_with(name: str) -> Callable[[str | bytes], Prepare]:
    """A file with some content, and the start of a run."""

    def of(content: str | bytes) -> Prepare:
        def prepare(place: Place) -> Act:
            place.write(name, content)
            return place.start

        return prepare

    return of


def file_for(read: Callable[[Path], object], name: str) -> Callable[[str | bytes], Prepare]:
    """A file with some content, and what reads it."""

    def of(content: str | bytes) -> Prepare:
        def prepare(place: Place) -> Act:
            path = place.write(name, content)
            return lambda: read(path)

        return prepare

    return of


def tensors_for(read: Callable[[Path], object]) -> Callable[..., Prepare]:
    """A safetensors file of some tensors, with a record in its header or the text of one, and what reads it."""

    def of(held: dict[str, torch.Tensor], record: object = None) -> Prepare:
        def prepare(place: Place) -> Act:
            path = place.work / "file.safetensors"
            text = record if isinstance(record, str) else json.dumps(record)
            save_file(
                {name: tensor.clone() for name, tensor in held.items()},
                path,
                None if record is None else {"lethe": text},
            )
            return lambda: read(path)

        return prepare

    return of


def as_table(*names: str) -> str:
    """A concept table with a row for each name."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerows([HEADER.split(), *([name, "object", "the sky", "boat"] for name in names)])
    return file.getvalue()


def image_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, str | bytes]) -> bytes:
    """The file of a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


GOOD = image_bytes(Image.new("RGB", (4, 4)))

# Bases


def spoilt(change: Callable[[Path], object], load: Callable[[Path], object]) -> Prepare:
    """A copy of the tiny base with a change, and what loads of it."""

    def prepare(place: Place) -> Act:
        base = place.base()
        change(base)
        return lambda: load(base)

    return prepare


def pipeline_of(base: Path) -> object:
    return load_pipeline(str(base), None, device=CPU, precision="float32")


def text_of(base: Path) -> object:
    return load_text(str(base), None, device=CPU, precision="float32")


def weights_of(base: Path) -> object:
    return projection_weights(str(base), None)


def describe_of(base: Path) -> object:
    return describe(str(base), None)


def reconfigured(folder: Path, file: str = "config.json", **values: object) -> None:
    """Give a JSON file of a model's folder other values."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def index(**values: object) -> Callable[[Path], object]:
    """A change of a base: other values in its index."""
    return lambda base: reconfigured(base, "model_index.json", **values)


def with_file(name: str, content: str | bytes, then: Callable[[Path], object] = lambda base: None) -> Callable:
    """A change of a base: a file with another content, and what else changes."""

    def change(base: Path) -> None:
        (base / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        then(base)

    return change


def only_pickle(part: str, old: str, new: str) -> Callable[[Path], object]:
    """A change of a base: a part's weights as a pickle in place of safetensors."""
    return with_file(f"{part}/{new}", PICKLE, lambda base: (base / part / old).unlink())
