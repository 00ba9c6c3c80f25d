"""Several GPUs: jobs that run at once have one each, taken and given back by real processes; the GPUs are pretended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lethe.steps.gpus import UNSTARTED, VISIBLE, least_taken, lock_folder, take_gpu, visible_gpus
from lethe.steps.job import DEVICE, Job
from running import ROOT

WARM = """
import os, signal, sys, types, torch

def started():
    raise SystemExit("what jobs import starts CUDA, so that forks cannot use it, and it sees every GPU")

torch._C._cuda_getDeviceCount = torch._C._cuda_init = started
torch.cuda._device_count_nvml = lambda: len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2").split(","))
import lethe.steps.lora, lethe.steps.sample
from lethe.steps.job import Job

for _ in sys.stdin:  # a job for each line
    if not os.fork():
        try:
            job = Job(["lethe.steps.sample"], types.SimpleNamespace(), 1, {}, {})
            print(os.getpid(), job.device, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
            assert torch.cuda.device_count() == 1 and not torch.cuda.is_initialized()
            signal.pause()
        except BaseException as error:
            print(repr(error), flush=True)  # else the test would wait for a line
            raise
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[int, str, str]]]:
    """Start a job as a fork of a process that has imported torch: its process, its device, the GPU that it sees."""
    environment = {name: value for name, value in os.environ.items() if name not in (VISIBLE, "SLURM_JOB_ID")}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "workflow"), DEVICE: "auto", UNSTARTED: "1"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    warm = subprocess.Popen([sys.executable, "-c", WARM], env=environment, **pipes)
    jobs = []

    def started() -> tuple[int, str, str]:
        warm.stdin.write("\n")
        process, device, seen = warm.stdout.readline().split()
        jobs.append(int(process))
        return jobs[-1], device, seen

    try:
        yield started
    finally:
        for job in {*jobs}:
            os.kill(job, signal.SIGKILL)  # those that were killed wait, as zombies, for the process that started them
        warm.kill()
        warm.communicate()


def test_jobs_have_a_gpu_each_and_a_killed_one_gives_it_back(start: Callable[[], tuple[int, str, str]]) -> None:
    found = {seen: (process, device) for process, device, seen in (start() for _ in range(3))}
    assert {seen: device for seen, (_, device) in found.items()} == dict.fromkeys("012", "cuda")
    assert start()[2] == "0"  # more jobs than GPUs: they share, beginning anew
    killed, _ = found["1"]
    os.kill(killed, signal.SIGKILL)
    while "zombie" not in Path(f"/proc/{killed}/status").read_text():
        time.sleep(0.01)
    assert [start()[2] for _ in range(2)] == ["1", "1"]  # free again, then, as 0, shared


def test_a_lock_is_given_back_when_its_file_is_closed(tmp_path: Path) -> None:
    held = [least_taken(["a", "GPU-1/2"], tmp_path / "locks") for _ in range(5)]
    assert [place for place, _ in held] == [0, 1, 0, 1, 0]
    held[3][1].close()
    assert [least_taken(["a", "GPU-1/2"], tmp_path / "locks")[0] for _ in range(1)] == [1]
    for _, file in held:
        file.close()
    again, file = least_taken(["a", "GPU-1/2"], tmp_path / "locks")
    file.close()
    assert again == 0


@pytest.mark.parametrize(
    ("given", "seen"),
    [("0,1", ["0", "1"]), ("", []), ("3", ["3"]), ("0,-1,1", ["0"]), (" GPU-a , GPU-b", ["GPU-a", "GPU-b"])],
)
def test_the_variable_says_which_gpus_there_are(given: str, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 / 0)
    assert visible_gpus() == seen


@pytest.mark.parametrize("name", ["cpu", "cuda:1", "mps"])
def test_a_device_that_leaves_no_choice_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    assert take_gpu(name) == (name, None)
    monkeypatch.setenv(VISIBLE, "1")
    assert take_gpu("cuda") == ("cuda", None)
    assert os.environ[VISIBLE] == "1"


def test_a_driver_that_has_looked_already_is_asked_by_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without NVIDIA's library of management torch counts by the driver, which reads the variable once."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("lethe.steps.gpus.lock_folder", lambda: tmp_path)
    monkeypatch.setenv(DEVICE, "cuda")
    monkeypatch.setenv(UNSTARTED, "1")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    first, second = (Job(["lethe.steps.sample"], SimpleNamespace(), 1, {}, {}) for _ in range(2))
    assert first.device == torch.device("cuda:0")
    monkeypatch.delenv(VISIBLE)
    assert second.device == torch.device("cuda:1")
    assert first.device == torch.device("cuda:0")  # asked again, the same
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    for job in (first, second):
        job.gpu.close()


def test_without_torchs_word_that_cuda_is_not_started_a_gpu_has_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VISIBLE, "4,7")
    monkeypatch.delenv(UNSTARTED, raising=False)
    monkeypatch.setattr("lethe.steps.gpus.lock_folder", lambda: tmp_path)
    found = [take_gpu("auto") for _ in range(2)]
    assert [name for name, _ in found] == ["cuda:0", "cuda:1"]
    assert os.environ[VISIBLE] == "4,7"
    for _, file in found:
        file.close()


def test_a_submission_of_slurm_numbers_its_gpus_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    alone = lock_folder()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert lock_folder() != alone
    assert lock_folder().name.endswith("-17")
