"""Making the large world part by part: what is there stays, what was cut off begins again, and only once at a time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from emoji_world import parts
from emoji_world.parts import LINES, Work, make_line, only_one, wait_for
from emoji_world.world import World


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, tmp_path, World((), ()), {"a": {"budget": dict(steps=1, batch=2, learning_rate=0.1, seed=3)}})


def test_parts_are_made_in_order_and_those_that_are_there_stay(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def folder(_: Work, out: Path) -> None:
        made.append("folder")
        assert not out.exists()
        out.mkdir()
        (out / "x").write_text("new")

    def file(_: Work, out: Path) -> None:
        made.append("file")
        assert (work.folder / "one" / "x").read_text() == "new"
        out.write_text("done")

    monkeypatch.setattr(parts, "LINES", {"line": {"one": folder, "two": file}})
    (work.folder / "one.part").mkdir()  # what a cut left
    (work.folder / "one.part" / "y").write_text("old")
    make_line(work, "line")
    make_line(work, "line")
    assert made == ["folder", "file"]
    assert sorted(path.name for path in work.folder.iterdir()) == ["one", "two"]
    assert [path.name for path in (work.folder / "one").iterdir()] == ["x"]


def test_a_part_that_fails_is_not_there(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Work, out: Path) -> None:
        out.write_text("half")
        raise RuntimeError("lost")

    monkeypatch.setattr(parts, "LINES", {"line": {"one": fail}})
    with pytest.raises(RuntimeError, match="lost"):
        make_line(work, "line")
    assert not (work.folder / "one").exists()


def hold(path: Path, ready: multiprocessing.Queue) -> None:
    with only_one(path):
        ready.put(1)
        ready.get()


def test_a_line_is_made_once_at_a_time_and_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready))
    process.start()
    ready.get(timeout=60)
    with pytest.raises(SystemExit, match="already being made"), only_one(tmp_path / "lock"):
        pass
    process.kill()
    process.join()
    with only_one(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().strip().isdigit()


def test_waiting_ends_when_the_part_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            (tmp_path / "part").touch()

    monkeypatch.setattr(parts.time, "sleep", sleep)
    assert wait_for(tmp_path / "part") == tmp_path / "part"
    assert len(slept) == 3


def test_the_judges_see_nothing_of_the_pipelines() -> None:
    made = [name for line in LINES.values() for name in line]
    assert len(set(made)) == len(made)
    assert list(LINES["pipeline"])[-1] == "pipeline"
    judged = list(LINES["judges"])
    assert judged.index("judge_scenes.safetensors") < judged.index("judge") < judged.index("segmenter")


def test_budgets_and_checkpoints_are_the_parts_own(work: Work) -> None:
    assert (work.budget("a").steps, work.budget("a").checkpoint_every) == (1, 500)
    assert work.checkpoint("a") == work.folder / "checkpoints" / "a.safetensors"
