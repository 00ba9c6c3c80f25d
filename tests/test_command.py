"""The lethe command: what README says it does, in words a person can act on, from a clone and installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, constants
from PIL import Image
from torch import Tensor

from bad_input import PICKLE, UNET, Act, Case, Place, Prepare, each_of, index, refusals, with_file
from conftest import CPU, ROOT
from edited import edited_pipeline, factored_for, image, record_for, tree
from lethe.__main__ import main
from lethe.api import sample
from lethe.bases.pipeline import load_pipeline
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.weights import WeightEdit


@pytest.fixture
def edit(sd_folder: Path, tmp_path: Path, drawn: Callable[..., Tensor]) -> Path:
    """The file of an edit by factors of the tiny base."""
    made = factored_for(sd_folder, drawn)
    more = {"task": "ships", "settings": {"mace": {"lamb": 0.5}, "device": "cpu"}, "code": "c" * 64}
    record = made.record | more | {"environment": {"torch": "2.15.0"}}
    FactoredEdit(made.transform, made.updates, made.rows, record).save(tmp_path / "edit.safetensors")
    return tmp_path / "edit.safetensors"


def told(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What a refusal says: one line on standard error, nothing else."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lethe: ")
    assert err.count("\n") == 1
    return err


def test_show_says_what_made_an_edit(edit: Path, sd_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", str(edit)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["method"] == "mace"
    assert lines["base"].startswith(f"tiny: {sd_folder}, fingerprint ")
    assert lines["task"] == "ships"
    assert lines["concepts"] == "AC/DC (rank 1), Ü ```` ship (rank 1)"
    assert lines["form"] == "factors, 14 parameters, 0.0 MB"
    assert lines["settings"] == "device cpu, mace.lamb 0.5"
    assert lines["versions"] == "torch 2.15.0"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_sign_shows_its_escape(edit: Path, encoding: str) -> None:
    """F29."""
    variables = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "PYTHONIOENCODING": encoding}
    made = Edit.load(edit)
    record = made.record | {"concepts": ["Itō Jakuchū", "Ü ship"]}
    rows = {"Itō Jakuchū": made.rows["AC/DC"], "Ü ship": made.rows["Ü ```` ship"]}
    FactoredEdit(made.transform, made.updates, rows, record).save(edit)
    run = subprocess.run([sys.executable, "-m", "lethe", "show", str(edit)], capture_output=True, env=variables)
    assert run.returncode == 0, run.stderr
    shown = {"ascii": rb"It\u014d Jakuch\u016b", "latin-1": rb"It\u014d Jakuch\u016b", "utf-8": "Itō Jakuchū".encode()}
    assert shown[encoding] in run.stdout
    assert b"versions" in run.stdout
    missing = subprocess.run(
        [sys.executable, "-m", "lethe", "show", "Itō"], capture_output=True, env=variables, check=False
    )
    assert missing.returncode == 2
    assert missing.stderr.startswith(b"lethe: It")


def test_show_prints_no_control_characters(tmp_path: Path, sd_folder: Path, capsys: pytest.CaptureFixture) -> None:
    record = record_for(sd_folder) | {"concepts": ["\x1b[31mship\nx"]}
    WeightEdit({"conv_in.bias": Tensor([1.0])}, record).save(tmp_path / "edit")
    assert main(["show", str(tmp_path / "edit")]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[31mship\nx" in out
    assert "\x1b" not in out


def test_show_can_print_the_whole_record(edit: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "--json", str(edit)]) == 0
    assert json.loads(capsys.readouterr().out) == Edit.load(edit).record


def test_what_is_no_edit_is_refused_in_a_sentence(
    tmp_path: Path, sd_folder: Path, edit: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "text").write_text("x")
    out, base = tmp_path / "out", ("--base", sd_folder)
    assert "text: this is no safetensors file" in told(capsys, "show", tmp_path / "text")
    assert "absent" in told(capsys, "show", tmp_path / "absent")
    weights = sd_folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert "this is no edit" in told(capsys, "export", *base, "--edit", weights, "--out", out)
    assert "it is there already" in told(capsys, "export", *base, "--edit", edit, "--out", tmp_path)
    assert "no model_index.json" in told(capsys, "export", "--base", tmp_path, "--edit", edit, "--out", out)
    assert "no revisions" in told(capsys, "export", *base, "--revision", "main", "--edit", edit, "--out", out)
    peft = ("export", "--as", "peft", *base, "--edit", edit, "--out", out)
    assert "`rank` must be 1 or more" in told(capsys, *peft, "--rank", 0)
    assert "the form peft needs a rank" in told(capsys, *peft)
    assert not out.exists()


def test_a_hub_id_is_downloaded_at_its_revision(
    sd_folder: Path, edit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []

    def download(model: str, *, revision: str, variant: str | None, use_safetensors: bool) -> str:
        asked.append((model, revision, variant, use_safetensors))
        return str(sd_folder)

    def look_up(self: HfApi, model: str, *, revision: str, timeout: float) -> None:
        if model == "owner/gone":
            raise OSError("404 Client Error.\n\nRepository Not Found")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", look_up)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    rest = ["--revision", "abc", "--edit", str(edit), "--out", str(tmp_path / "out")]
    assert main(["export", "--base", "owner/name", *rest]) == 0
    assert asked == [("owner/name", "abc", None, True)]
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert "the hub does not give it (404 Client Error.)" in told(capsys, "export", "--base", "owner/gone", *rest)


def lethe(folder: Path, *arguments: str, path: Path = ROOT / "workflow") -> subprocess.CompletedProcess:
    """Run the command as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "lethe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)


def test_readmes_commands_do_what_it_says(
    sd_folder: Path, edit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Run on the tiny base in place of the emoji model."""
    (block,) = re.findall(r"<!-- edit commands -->\n```bash\n(.+?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    install, *commands = [shlex.split(line) for line in block.splitlines()]
    assert install == ["pip", "install", "--no-deps", "."]
    assert [words[1] for words in commands] == ["show", "export", "export", "export", "sample"]
    for target, name in (
        (sd_folder, "resources/emoji/pipeline"),
        (edit, "results/emoji/edits/objects/mace.safetensors"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    said = []
    for words in commands:
        assert main(words[1:]) == 0, capsys.readouterr().err
        said.append(capsys.readouterr().out)
    assert "AC/DC" in said[0]
    assert re.search(r"leaves out \d+\.\d\d% of the edit's change", said[3])
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / commands[1][-1])
    assert np.array_equal(image(pipeline), image(edited_pipeline(sd_folder, Edit.load(edit))))
    plain = DiffusionPipeline.from_pretrained(sd_folder)
    before = image(plain)
    plain.load_lora_weights(tmp_path / commands[3][-1])
    assert not np.array_equal(image(plain), before)
    told = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert [row["seed"] for row in told["images"]] == [0, 1, 2]
    drawn = [np.asarray(Image.open(tmp_path / "samples" / row["image"])) for row in told["images"]]
    assert len({picture.tobytes() for picture in drawn}) == 3
    base = load_pipeline(str(sd_folder), None, device=CPU, precision="float32")
    Edit.load(edit).install(base)
    assert all(map(np.array_equal, drawn, sample(base, ["a photo of the ship"] * 3, [0, 1, 2], steps=12)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prompt", "a"], "name an --edit, a --base, or both"),
        (["--prompt", "a", "--base", "{base}", "--num-images", "0"], "--num-images must be 1 or more; got 0"),
        (["--prompt", "a", "--base", "{base}", "--out", "."], "is there already; name another folder"),
        (["--prompt", "a", "--edit", "{edit}", "--base", "{other}"], "make the edit again for this base"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    words: list[str],
    told: str,
    sd_folder: Path,
    sd2_folder: Path,
    edit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    filled = [word.format(base=sd_folder, other=sd2_folder, edit=edit) for word in words]
    assert main(["sample", *filled]) == 2
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_runs_from_a_clone(tmp_path: Path) -> None:
    assert lethe(tmp_path, "--version").stdout == "lethe 0.1.0\n"
    assert "usage: lethe" in lethe(tmp_path).stderr


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    rest = dict(step="x", settings={}, environment={}, run={"host": "h", "gpu": None, "started": "s"})
    inputs = {f"given/{k}": "0" * 64 for k in range(30000)}  # more than a pipe holds
    record = rest | {"format": 1, "inputs": inputs, "outputs": {"results/a": "0" * 64}}
    (tmp_path / "results" / "provenance").mkdir(parents=True)
    (tmp_path / "results" / "provenance" / "a.json").write_text(json.dumps(record))
    command = f"{shlex.quote(sys.executable)} -m lethe trace results/a --json | head -n 1"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "{\n", "")


def test_pip_installs_the_command(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    installed = {name for name in tree(tmp_path / "site" / "lethe") if name.endswith(".py")}
    assert installed == {name for name in tree(ROOT / "workflow" / "lethe") if name.endswith(".py")}
    assert (tmp_path / "site" / "bin" / "lethe").exists()
    run = lethe(tmp_path, "--version", path=tmp_path / "site")
    assert run.stdout == "lethe 0.1.0\n"
    (tmp_path / "text").write_text("x")
    run = lethe(tmp_path, "show", "text", path=tmp_path / "site")
    assert run.returncode == 2
    assert run.stderr.startswith("lethe: text: this is no safetensors file")


# Bad input


def command(*words: str, spoil: Callable[[Path], object] = lambda base: None) -> Prepare:
    """`lethe` with an edit of the tiny base in edit.safetensors, and that base in the folder base."""

    def prepare(place: Place) -> Act:
        base = place.base()
        WeightEdit({"conv_in.bias": torch.ones(16)}, record_for(base)).save(place.work / "edit.safetensors")
        (place.outside / "empty").mkdir()
        (place.work / "link").symlink_to(place.outside / "empty")
        (place.work / "dangling").symlink_to(place.outside / "absent")
        place.write("pickle.safetensors", PICKLE)
        spoil(base)
        return lambda: main(words)

    return prepare


EXPORT = ("export", "--edit", "edit.safetensors", "--out", "out", "--base")
OUT = ("export", "--edit", "edit.safetensors", "--base", "base", "--out")
CASES = [
    *refusals(
        "lethe",
        {
            "hub id with a traversal": (*EXPORT, "owner/../../x", ("'owner/../../x' is no hub id",)),
            "URL": (*EXPORT, "https://huggingface.co/owner/name", ("is no hub id (owner/name)",)),
            "home": (*EXPORT, "~/x", ("lethe: ~/x: there is no such folder", "is no hub id")),
            "revision with a traversal": (
                *EXPORT,
                "owner/name",
                "--revision",
                "../../x",
                ("'../../x' is no commit, tag",),
            ),
            "revision like an option": (*EXPORT, "owner/name", "--revision=--force", ("'--force' is no commit, tag",)),
            "folder that is a link to a folder": (
                *OUT,
                "link",
                ("link: it is a link; name the folder to write itself",),
            ),
            "folder that is a link to nothing": (*OUT, "dangling", ("dangling: it is a link",)),
            "folder that is full": (*OUT, "config", ("config: it is there already",)),
            "folder inside a file": (*OUT, "edit.safetensors/out", ("edit.safetensors",)),
            "edit that is a pickle": (
                "show",
                "pickle.safetensors",
                ("pickle.safetensors: this is no safetensors file",),
            ),
            "edit that is a folder": ("show", "config", ("config: there is no such safetensors file",)),
            "edit like an option": ("show", "--settings", ("lethe", "unrecognized arguments|required")),
            "rank that is no number": (
                *OUT,
                "out",
                "--as",
                "peft",
                "--rank",
                "$(touch canary)",
                ("invalid int value",),
            ),
        },
        command,
    ),
    *refusals(
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
        lambda spoil: command(*EXPORT, "base", spoil=spoil),
    ),
]


@each_of(CASES)
def test_bad_arguments_and_what_they_name_are_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
