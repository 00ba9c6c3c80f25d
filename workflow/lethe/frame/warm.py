"""The process that jobs start from: it has imported what they need, and forks one for each that asks.

    python -P warm.py LISTENER OWNER MODULE,...

LISTENER is the number of an inherited socket that listens, OWNER the process (Snakemake) after which there is nothing
left to do. `lethe.frame.start` starts it and speaks with it. Nothing of Lethe is imported here, so a job runs the
code that is there when it starts.

A job is a process of its own, a child of an attendant that passes on signals to it and tells how it ended. Attendants
need this process no more once they are there. It forks only while it has one thread.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

IDLE = 120.0  # seconds without a job after which it ends
MOST = 1 << 26  # bytes of a request
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ARROW = "JE_ARROW_MALLOC_CONF"
PDEATHSIG, SET_NAME = 1, 15  # of prctl


Handlers = dict[int, object]


def serve(listener: socket.socket, owner: int, modules: list[str], before: Handlers) -> None:
    """Import modules, then fork an attendant for every job that comes in, until the owner is gone or none comes.

    `before` are the handlers of signals that a job starts with.
    """
    ended = os.pidfd_open(owner)
    prepare(modules)
    if threads() > 1:
        refusal(listener.getsockname()).touch()
        return  # whoever waits, and comes later, starts cold
    gc.collect()
    gc.freeze()
    attendants: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([listener, ended, *attendants], [], [], None if attendants else IDLE)
        for done in attendants.keys() & set(ready):
            os.waitpid(attendants.pop(done), 0)
            os.close(done)
        if ended in ready or not ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            attendant = os.fork()
            if attendant == 0:
                listener.close()
                for number in (ended, *attendants):
                    os.close(number)
                attend(connection, before)
                os._exit(0)
            connection.close()
            attendants[os.pidfd_open(attendant)] = attendant


def prepare(modules: list[str]) -> None:
    """Import modules without starting a thread."""
    given = os.environ.get(ARROW)
    os.environ[ARROW] = "background_thread:false"  # of pyarrow's allocator, which gives back memory in it
    for name in modules:
        with suppress(ImportError):  # the job that needs it says so
            importlib.import_module(name)
    os.environ.pop(ARROW)
    if given is not None:
        os.environ[ARROW] = given


def refusal(address: str) -> Path:
    """The file that says that no process can be forked for jobs that would ask at an address."""
    return Path(f"{address}.cold")


def threads() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/task").iterdir()))


def attend(connection: socket.socket, before: Handlers) -> None:
    """Run one job in a child: pass signals on to it, tell how it ended, and kill it when the client is gone."""
    call("lethe attendant")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # what comes to a whole group is for the job
    peer = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if peer[1] != os.geteuid():
        return
    _, rights, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", rights[0][2])
    text = b""
    while not text.endswith(b"\n"):
        part = connection.recv(1 << 20)
        if not part or len(text) > MOST:
            return
        text += part
    folder, variables, module, arguments = json.loads(text)
    connection.sendall(b"t")  # taken; the client, which may have given up, says whether to begin
    if connection.recv(1) != b"b":
        return
    attendant = os.getpid()
    job = os.fork()
    if job == 0:  # it keeps the connection, so that the client sees an end of it when nothing of the job is left
        _follow(attendant, f"lethe {arguments[0].rpartition('.')[2] if arguments else module}")
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        become(folder, variables, module, arguments)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(job)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        numbers = connection.recv(64) or [signal.SIGKILL]
        for number in numbers:
            os.kill(job, number)
        if numbers == [signal.SIGKILL]:
            break
    status = os.waitpid(job, 0)[1]
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def call(name: str) -> None:
    """Give this process a name for `ps`, of at most 15 bytes."""
    ctypes.CDLL(None).prctl(SET_NAME, name.encode()[:15], 0, 0, 0)


def _follow(parent: int, name: str) -> None:
    """Let this process be killed when its parent ends, and have a name of its own."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call(name)
    if os.getppid() != parent:
        os._exit(1)


def become(folder: str, variables: dict[str, str], module: str, arguments: list[str]) -> None:
    """Do what `python -m MODULE ...` does from its start to its end, in this process."""
    os.chdir(folder)
    os.environ.update(variables)
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # as at the start of any process; Python's own generator does it by itself
    code, signalled = 0, 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code, signalled = 1, signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0
    _end(code, signalled)


def _end(code: int, signalled: int) -> None:
    """End as Python does, but without taking apart all that was imported."""
    with suppress(BaseException):
        threading._shutdown()  # waits for threads that are not daemons
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    if signalled:
        signal.signal(signalled, signal.SIG_DFL)
        os.kill(os.getpid(), signalled)
    os._exit(code & 0xFF)


def main() -> None:
    """Serve at the inherited socket; its file goes when this process ends, but for a kill."""
    number, owner, modules = sys.argv[1:]
    listener = socket.socket(fileno=int(number))
    address, me = Path(listener.getsockname()), os.getpid()
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it reaches Snakemake and the jobs as well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    call("lethe warm")
    try:
        serve(listener, int(owner), modules.split(","), before)
    finally:
        if os.getpid() == me:
            address.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
