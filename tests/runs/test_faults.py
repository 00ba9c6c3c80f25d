"""Faults injected for real: what one is told, what stays behind, and that the rerun gives the same bytes."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from running import (
    contents,
    emptied_of_processes,
    ended,
    planned,
    process_of,
    processes_named,
    snakemake,
    started,
    warm_process_of,
)

PICTURE = "results/sd/edits/objects/mace/losses.png"
IN_MODIFY = 2  # of inotify: a file in the folder was written to


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished project, to break."""
    shutil.copytree(finished, tmp_path / "project")
    with emptied_of_processes(tmp_path / "project") as folder:
        yield folder


def kill_while_writing(process: psutil.Process, folder: Path) -> None:
    """Kill a process when it has begun to write an unfinished file in a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch, cores = libc.inotify_init(), os.sched_getaffinity(0)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), IN_MODIFY) >= 0
    try:
        for who in (0, process.pid):  # on one core, where this process takes over the moment it is told
            os.sched_setaffinity(who, {min(cores)})
        while select.select([watch], [], [], 300)[0]:
            if b".part" in os.read(watch, 4096):
                process.kill()
                return
    finally:
        os.sched_setaffinity(0, cores)
        os.close(watch)
    raise AssertionError(f"nothing was written in {folder}")


def size(path: Path) -> int:
    return path.stat().st_size


def test_a_step_is_killed_while_it_writes(finished: Path, copy: Path, forked: dict[str, str]) -> None:
    shard = sorted((copy / "results/sd/samples/original/reference").glob("*.zip"), key=size)[-1]
    target = str(shard.relative_to(copy))
    whole = size(shard)
    for _ in range(3):
        shard.unlink()
        run = started(copy, "--cores", "1", target)
        kill_while_writing(process_of(copy, "sample"), shard.parent)
        told = ended(run)
        if told.returncode:
            break  # else it was done before it could be killed
    assert told.returncode == 1
    assert "Error in rule sample" in told.stdout + told.stderr
    assert not shard.exists()
    (part,) = shard.parent.glob(".*.part")
    assert 0 < part.stat().st_size < whole
    again = snakemake(copy, "--cores", "1", target, environment=forked)
    assert again.returncode == 0, again.stderr
    assert planned(again.stdout + again.stderr) == {"sample": 1}
    assert contents(copy) == contents(finished)


def test_snakemake_is_killed_and_its_step_lives_on(finished: Path, copy: Path, forked: dict[str, str]) -> None:
    (copy / PICTURE).unlink()
    run = started(copy, "--cores", "1", PICTURE)
    step = process_of(copy, "losses")
    step.suspend()
    run.kill()
    run.wait()
    step.resume()
    ended(run)  # when nobody holds its output open any more
    assert (copy / PICTURE).exists()
    refused = snakemake(copy, "--cores", "1", PICTURE, environment=forked)
    assert refused.returncode == 1
    assert "Directory cannot be locked" in refused.stderr
    assert "It can be removed with the --unlock argument" in refused.stderr
    assert snakemake(copy, "--unlock", environment=forked).returncode == 0
    again = snakemake(copy, "--cores", "1", PICTURE, environment=forked)
    assert again.returncode == 0, again.stderr
    assert planned(again.stdout + again.stderr) == {"losses": 1}  # nobody has seen how it was made
    assert contents(copy) == contents(finished)


@pytest.mark.parametrize("killed", ["lethe warm", "lethe attendant", "lethe measure", "snakemake"])
def test_a_kill_in_a_warm_run_costs_time_alone(finished: Path, copy: Path, forked: dict[str, str], killed: str) -> None:
    """Of the process that jobs start from, of a job's attendant, of a job, of Snakemake."""
    shutil.rmtree(copy / "results/sd/measures/objects")
    target = "results/tables/objects.csv"
    (copy / target).unlink()
    run = started(copy, "--cores", "2", target, environment=forked)
    job = warm_process_of(copy, "measure")
    job.suspend()
    if killed == "snakemake":
        run.kill()
    else:
        about = {job.pid, *(parent.pid for parent in job.parents()[:2])}
        (victim,) = [process for process in processes_named(killed) if process.pid in about]
        victim.kill()
    if killed in ("lethe warm", "snakemake"):
        job.resume()
    told = ended(run)
    assert told.returncode == {"lethe warm": 0, "snakemake": -9}.get(killed, 1), told.stderr
    if killed == "snakemake":
        assert snakemake(copy, "--unlock", environment=forked).returncode == 0
    again = snakemake(copy, "--cores", "2", target, environment=forked)
    assert again.returncode == 0, again.stderr
    assert contents(copy) == contents(finished)


def test_a_second_run_in_the_same_folder_is_refused(finished: Path, copy: Path, forked: dict[str, str]) -> None:
    (copy / PICTURE).unlink()
    first = started(copy, "--cores", "1", PICTURE)
    step = process_of(copy, "losses")
    step.suspend()
    second = snakemake(copy, "--cores", "1", PICTURE, environment=forked)
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stderr
    assert "no other Snakemake process" in second.stderr
    assert not (copy / PICTURE).exists()
    step.resume()
    run = ended(first)
    assert run.returncode == 0, run.stderr
    assert contents(copy) == contents(finished)


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Callable[..., None]]:
    """A file system over a folder while the block runs, by `mount` with these arguments; skip where that is refused."""

    def mount(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)

    if (done := mount(*arguments)).returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(finished: Path, copy: Path, forked: dict[str, str]) -> None:
    shutil.move(copy / "results", copy / "moved")
    (copy / "results").mkdir()
    with mounted(copy / "results", "-t", "tmpfs", "-o", "size=100m", "lethe-test"):
        shutil.copytree(copy / "moved", copy / "results", dirs_exist_ok=True)
        (copy / PICTURE).unlink()
        filler = copy / "results" / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        before = contents(copy)
        run = snakemake(copy, "--cores", "1", PICTURE)
        assert run.returncode == 1
        assert f"losses: No space left on device (while writing {PICTURE})" in run.stdout + run.stderr
        assert "Traceback" not in run.stdout + run.stderr
        assert contents(copy) == before
        filler.unlink()
        again = snakemake(copy, "--cores", "1", PICTURE, environment=forked)
        assert again.returncode == 0, again.stderr
        assert contents(copy) == contents(finished)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below a folder can be written while the block runs, not even by root, to whom modes mean nothing."""
    if os.geteuid() == 0:
        with mounted(folder, "--bind", str(folder)) as mount:
            assert mount("-o", "remount,bind,ro").returncode == 0
            yield
        return
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


def test_results_that_cannot_be_written(finished: Path, copy: Path, forked: dict[str, str]) -> None:
    (copy / PICTURE).unlink()
    before = contents(copy)
    with read_only(copy / "results"):
        run = snakemake(copy, "--cores", "1", PICTURE)
        assert run.returncode == 1
        assert f"{copy / 'results'} cannot be written: mount it writable, or change its owner or mode" in run.stderr
        assert "Traceback" not in run.stdout + run.stderr
        assert contents(copy) == before
    again = snakemake(copy, "--cores", "1", PICTURE, environment=forked)
    assert again.returncode == 0, again.stderr
    assert contents(copy) == contents(finished)
