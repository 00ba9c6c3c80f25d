"""Jobs that start warm are the processes that they would be cold, and a kill of any of them costs time alone.

The module that they run does what a test says; a server that has imported next to nothing starts in a moment.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lethe.frame import start
from running import ROOT, processes_named

CLIENT = """
import os, sys
from lethe.frame.start import end, run_warm
code = run_warm("toy", sys.argv[1:], owner=int(os.environ["OWNER"]), modules=tuple(os.environ["MODULES"].split()))
if code is None:
    os.execv(sys.executable, [sys.executable, "-m", "toy", "cold", *sys.argv[1:]])
end(code)
"""
TOY = """
import atexit, json, os, resource, signal, sys, threading, time
def told():
    status = open("/proc/self/status").read().splitlines()
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")}
    umask = os.umask(0)
    return dict(
        variables=dict(os.environ), folder=os.getcwd(), arguments=sys.argv, path=sys.path, name=__name__, limits=limits,
        umask=umask, nice=os.nice(0), cores=sorted(os.sched_getaffinity(0)), group=os.getpgrp(), session=os.getsid(0),
        signals=[line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
        interrupt=signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        streams=[os.isatty(n) for n in range(3)], encodings=[sys.stdout.encoding, sys.stderr.errors],
        buffered=[sys.stdout.line_buffering, sys.stderr.line_buffering],
        threads=threading.active_count(),
    )
def run(cold, *words):
    atexit.register(print, "at the end")
    what = words[0]
    print("out", what)
    print("err", what, file=sys.stderr)
    if what == "tell":
        print(json.dumps(told()))
    elif what == "read":
        print(sys.stdin.read())
    elif what == "exit":
        sys.exit(eval(words[1]))
    elif what == "raise":
        raise ValueError(words[1])
    elif what == "die":
        sys.stdout.flush()
        os.kill(os.getpid(), int(words[1]))
        time.sleep(5)
    elif what == "wait":
        path = words[1]
        signal.signal(signal.SIGTERM, lambda *_: (open(path + ".term", "w").close(), sys.exit("stopped")))
        open(path + ".part", "w").write(str(os.getpid()))
        os.rename(path + ".part", path + ".pid")
        while not os.path.exists(path + ".go"):
            time.sleep(0.01)
        open(path, "w").write("cold" if cold else "warm")
if sys.argv[1] == "cold":
    run(True, *sys.argv[2:])
else:
    run(False, *sys.argv[1:])
"""


class Toys:
    """Start toys, warm or as plain processes, in one folder, for one owner that lives until it is told."""

    def __init__(self, folder: Path, modules: str = "json") -> None:
        self.folder = folder
        (folder / "toy.py").write_text(TOY)
        (folder / "slow.py").write_text("import time; time.sleep(3)")
        (folder / "many.py").write_text(
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
        )
        self.owner = subprocess.Popen(["sleep", "600"])
        self.started: list[subprocess.Popen] = []
        paths = os.pathsep.join([str(ROOT / "workflow"), str(folder)])
        kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self.variables = kept | {"OWNER": str(self.owner.pid), "MODULES": modules, "PYTHONPATH": paths}
        self.variables["TMPDIR"] = str(folder)

    def start(self, *words: str, plain: bool = False, **more: object) -> subprocess.Popen:
        command = ["-m", "toy"] if plain else ["-c", CLIENT]
        streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE)
        chosen = dict(env=self.variables, cwd=self.folder, text=True) | streams | more
        self.started.append(subprocess.Popen([sys.executable, *command, *words], **chosen))
        return self.started[-1]

    def run(self, *words: str, given: str = "", **more: object) -> tuple[int, str, str]:
        with self.start(*words, **more) as toy:
            out, err = toy.communicate(given, timeout=60)
        return toy.returncode, out, err

    def waiting(self, name: str, **more: object) -> tuple[subprocess.Popen, psutil.Process]:
        """A toy that waits for the file `name.go`, and the process that it is."""
        toy = self.start("wait", str(self.folder / name), **more)
        return toy, psutil.Process(int(until((self.folder / f"{name}.pid").read_text)))

    def servers(self) -> list[psutil.Process]:
        """The processes that listen for this owner."""
        mark = [str(self.owner.pid), self.variables["MODULES"].replace(" ", ",")]
        found = []
        for process in processes_named("lethe warm"):
            with suppress(psutil.Error):
                found += [process] * (process.cmdline()[-2:] == mark)
        return found

    def end(self) -> None:
        self.owner.kill()
        self.owner.wait()


def until(found: Callable[[], object], seconds: float = 60) -> object:
    """What a function returns, as soon as it returns something and raises nothing."""
    end = time.monotonic() + seconds
    while True:
        try:
            if result := found():
                return result
        except (OSError, psutil.Error):
            pass
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Toys]:
    made = Toys(tmp_path)
    yield made
    for toy in made.started:
        toy.kill()  # after a test that failed
    made.end()


def test_a_warm_job_finds_what_a_plain_process_finds(toys: Toys) -> None:
    def changed() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
        os.umask(0o027)
        os.nice(3)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    for prepare in (None, changed):
        told = []
        for plain in (True, False, False):
            code, out, err = toys.run("tell", "é\udcff", plain=plain, preexec_fn=prepare)
            assert (code, err) == (0, "err tell\n")
            lines = out.splitlines()
            assert (lines[0], lines[2]) == ("out tell", "at the end")
            told.append(json.loads(lines[1]))
        assert told[1] == told[0]
        assert told[2] == told[0]
        assert told[0]["variables"]["OWNER"] == str(toys.owner.pid)
    assert len(toys.servers()) == 2  # one for each kind of process


@pytest.mark.parametrize(
    "words",
    [
        ("exit", "0"),
        ("exit", "None"),
        ("exit", "3"),
        ("exit", "'a sentence'"),
        ("raise", "bad"),
        ("read",),
        *(("die", str(int(number))) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV)),
    ],
    ids=" ".join,
)
def test_a_warm_job_ends_as_a_plain_process_does(toys: Toys, words: tuple[str, ...]) -> None:
    plain, warm = (toys.run(*words, given="some\ntext", plain=plain) for plain in (True, False))
    assert len(toys.servers()) == 1
    assert warm[:2] == plain[:2]
    assert warm[2].splitlines()[-1:] == plain[2].splitlines()[-1:]  # a traceback begins elsewhere


def test_jobs_at_once_share_a_process_and_a_signal_reaches_its_job(toys: Toys) -> None:
    one, first = toys.waiting("one")
    other, second = toys.waiting("other")
    (server,) = toys.servers()
    assert first.pid != second.pid
    assert {first.name(), second.name()} == {"lethe wait"}
    assert server.pid in {parent.pid for parent in first.parents()}
    one.send_signal(signal.SIGTERM)
    assert one.communicate(timeout=60)[1].endswith("stopped\n")
    assert one.returncode == 1
    assert (toys.folder / "one.term").exists()
    (toys.folder / "other.go").touch()
    assert other.wait(60) == 0
    assert (toys.folder / "other").read_text() == "warm"


def test_a_job_whose_client_is_killed_is_killed(toys: Toys) -> None:
    client, job = toys.waiting("one")
    client.kill()
    until(lambda: not job.is_running())
    assert not (toys.folder / "one.term").exists()
    assert toys.run("exit", "0")[0] == 0


def test_a_killed_job_or_attendant_ends_the_client_so(toys: Toys) -> None:
    client, job = toys.waiting("one")
    job.kill()
    assert client.wait(60) == -signal.SIGKILL
    client, job = toys.waiting("other")
    job.parent().kill()
    assert client.wait(60) == -signal.SIGKILL
    until(lambda: not job.is_running())
    assert len(toys.servers()) == 1


def test_a_job_outlives_its_server_and_the_next_one_starts_another(toys: Toys) -> None:
    client, job = toys.waiting("one")
    (server,) = toys.servers()
    server.kill()
    until(lambda: toys.servers() == [])
    assert toys.run("exit", "4")[0] == 4
    (another,) = toys.servers()
    assert another.pid != server.pid
    assert job.is_running()
    (toys.folder / "one.go").touch()
    assert client.wait(60) == 0
    assert (toys.folder / "one").read_text() == "warm"


def test_a_server_ends_with_its_owner_and_its_jobs_go_on(toys: Toys) -> None:
    client, _ = toys.waiting("one")
    assert len(toys.servers()) == 1
    toys.end()
    until(lambda: toys.servers() == [])
    assert [path.name for path in (toys.folder / f"lethe-{os.geteuid()}").iterdir()] == ["lock"]
    (toys.folder / "one.go").touch()
    assert client.wait(60) == 0
    assert (toys.folder / "one").read_text() == "warm"


def test_a_server_that_is_killed_while_it_imports_leaves_jobs_to_start_cold(tmp_path: Path) -> None:
    toys = Toys(tmp_path, modules="slow")
    for name in ("one", "other"):
        (tmp_path / f"{name}.go").touch()
    clients = [toys.start("wait", str(tmp_path / name)) for name in ("one", "other")]
    (server,) = until(toys.servers)
    time.sleep(0.5)
    server.kill()
    assert [client.wait(60) for client in clients] == [0, 0]
    told = {(tmp_path / name).read_text() for name in ("one", "other")}
    assert "cold" in told  # the other one may have come to start another server
    toys.end()


def test_no_fork_of_a_process_with_threads(tmp_path: Path) -> None:
    toys = Toys(tmp_path, modules="many")
    (tmp_path / "one.go").touch()
    assert toys.run("wait", str(tmp_path / "one"))[0] == 0
    assert (tmp_path / "one").read_text() == "cold"
    (refused,) = (tmp_path / f"lethe-{os.geteuid()}").glob("*.cold")
    before = refused.stat().st_mtime_ns
    assert toys.run("exit", "7")[0] == 7
    assert refused.stat().st_mtime_ns == before  # no other was started to find the same
    toys.end()


def test_a_server_that_nobody_asks_ends(toys: Toys) -> None:
    source = (ROOT / "workflow/lethe/frame/warm.py").read_text().replace("IDLE = 120.0", "IDLE = 0.5")
    brief = toys.folder / "brief.py"
    brief.write_text(source)
    toys.variables["BRIEF"] = str(brief)
    script = f"import os; from lethe.frame import warm; warm.__file__ = os.environ['BRIEF']\n{CLIENT}"
    run = subprocess.run([sys.executable, "-c", script, "exit", "5"], env=toys.variables, cwd=toys.folder, timeout=60)
    assert run.returncode == 5
    until(lambda: toys.servers() == [])
    assert toys.owner.poll() is None


def test_a_folder_that_others_can_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = start.private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert start.private_folder() == folder
    folder.chmod(0o770)
    with pytest.raises(PermissionError):
        start.private_folder()
    assert start.run_warm("toy", [], owner=os.getpid(), modules=("json",)) is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        start.private_folder()


def test_sockets_of_killed_servers_are_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (f"{gone.pid}-0123456789abcdef", f"{os.getpid()}-0123456789abcdef", "lock"):
        (tmp_path / name).touch()
    start._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{os.getpid()}-0123456789abcdef", "lock"])
