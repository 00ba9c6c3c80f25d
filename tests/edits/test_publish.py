"""Folders to the hub, or rather to a stand-in of it on this machine: what arrives there, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from conftest import ROOT
from edited import tree
from hub import TOKEN, Hub, hub
from lethe.__main__ import main
from lethe.edits.publish import publish

NAME = "owner/no-ships"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `lethe export` writes it, as far as that matters here."""
    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags: [lethe]\n---\n# x\n")
    (folder / "lethe.json").write_text("[]\n")
    (folder / "out.safetensors").write_bytes(bytes(range(256)))
    (folder / "images" / "after-000.png").write_bytes(b"png")
    return folder


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which this process takes for the hub."""
    with hub() as kept:
        monkeypatch.setattr(constants, "ENDPOINT", kept.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield kept


@pytest.mark.parametrize("private", [False, True])
def test_a_folder_arrives_whole_in_a_repository_of_its_own(there: Hub, folder: Path, private: bool) -> None:
    told = publish(folder, NAME, private=private)
    assert told.url == f"{there.address}/{NAME}"
    assert {name: len(content) for name, content in tree(folder).items()} == told.files
    assert there.private == {NAME: private}
    assert there.files[NAME] == tree(folder) | {".gitattributes": b""}


def test_the_command_uploads_to_where_the_environment_says(folder: Path) -> None:
    with hub() as kept:
        given = {"PYTHONPATH": str(ROOT / "workflow"), "HF_ENDPOINT": kept.address, "HF_TOKEN": TOKEN}
        command = [sys.executable, "-m", "lethe", "publish", str(folder), NAME]
        environment = os.environ | given | {"HF_HUB_OFFLINE": "0"}
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[-1] == f"uploaded to {kept.address}/{NAME}"
        assert kept.files[NAME] == tree(folder) | {".gitattributes": b""}


def test_a_later_state_takes_the_place_of_an_earlier(there: Hub, folder: Path) -> None:
    publish(folder, NAME)
    (folder / "out.safetensors").write_bytes(b"other")
    publish(folder, NAME)
    assert there.files[NAME]["out.safetensors"] == b"other"


def test_a_dry_run_lists_and_asks_nobody(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["publish", str(folder), NAME, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == sorted(tree(folder))
    assert lines[-1] == f"would go to {there.address}/{NAME}"
    assert there.asked == []


def refusal(capsys: pytest.CaptureFixture, *words: object) -> str:
    assert main(["publish", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_each_refusal_is_a_sentence(
    there: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert "it has no README.md or no lethe.json" in refusal(capsys, tmp_path, NAME)
    assert "'no-ships' is no hub id" in refusal(capsys, folder, "no-ships")
    assert there.asked == []
    there.add(NAME, ".gitattributes", "model_index.json")
    assert "owner/no-ships: it has other files already, such as model_index.json" in refusal(capsys, folder, NAME)
    there.add(NAME, ".gitattributes")
    assert "it is there already and public" in refusal(capsys, folder, NAME, "--private")
    assert there.files == {NAME: {".gitattributes": b""}}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "did not take it (Client error '401 Unauthorized'" in refusal(capsys, folder, NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "this machine has no token of the hub; run `hf auth login`" in refusal(capsys, folder, NAME)


def test_a_hub_out_of_reach_is_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with hub() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    told = refusal(capsys, folder, NAME)
    assert f"the hub at {gone.address} did not take it (" in told
    assert "check the network" in told
