"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bad_input import Act, Case, Place, each_of
from edited import tree
from lethe.files.whole import folder_written_whole, written_whole
from lethe.messages import sentence
from running import ROOT

# Files


def test_a_file_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    with written_whole(path) as part:
        part.write_text("half")
        assert not path.exists()
        assert part.parent == path.parent
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(error), written_whole(path) as part:
        part.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), written_whole(path) as part:
        part.write_text("new")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "file.txt"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from lethe.files.whole import folder_written_whole, written_whole
with written_whole(Path(sys.argv[1])) as part, folder_written_whole(Path(sys.argv[2])) as folder:
    part.write_text("half")
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path, folder = tmp_path / "file.txt", tmp_path / "folder"
    library = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.run([sys.executable, "-c", KILLED, path, folder], env=library, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    others = {
        tmp_path / ".file.txt.old.12345678.part",
        tmp_path / ".file.part",
        tmp_path / ".my.file.txt.12345678.part",
    }
    for other in others:
        other.touch()  # of other files
    with written_whole(path) as part, folder_written_whole(folder) as new:
        part.write_text("whole")
        (new / "whole").touch()
    assert set(tmp_path.iterdir()) == {path, folder, *others}
    assert path.read_text() == "whole"
    assert [left.name for left in folder.iterdir()] == ["whole"]


def test_the_last_to_begin_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with (
        pytest.raises(FileNotFoundError, match="file.txt: .*another process began to write it"),
        written_whole(path) as a,
    ):
        a.write_text("old")
        with written_whole(path) as b:
            b.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, written_whole(tmp_path / "file.txt"):
        raise OSError(28, "No space left on device")
    assert sentence(caught.value) == f"No space left on device (while writing {tmp_path / 'file.txt'})"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "file") as part:
            part.touch(mode=0o600)
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert after == umask  # left as it was
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


# Folders


def test_a_folder_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with folder_written_whole(tmp_path / name) as part:
            (part / "deep").mkdir()
            (part / "deep" / "file").write_text("x")
            assert not (tmp_path / name / "deep").exists()
        assert (tmp_path / name / "deep" / "file").read_text() == "x"
    assert {path.name for path in tmp_path.iterdir()} == {"new", "empty"}


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder_written_whole(tmp_path / "new") as part:
        (part / "file").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        text = f"{name}: it is there already; name a folder that does not exist or is empty"
        with pytest.raises(ValueError, match=text), folder_written_whole(tmp_path / name):
            pass
    assert (tmp_path / "full" / ".hidden").read_text() == (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


# Links


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


CASES = [
    Case("a link: results on another disk", through_a_link_of_results),
    Case("a link: an output", over_a_link),
]


@each_of(CASES)
def test_a_file_is_written_through_a_linked_folder_and_over_a_link(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
