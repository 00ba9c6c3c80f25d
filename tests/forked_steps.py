"""Run steps, and Snakemake, as forks of a process that has imported what they need, so that each costs its work alone.

A whole run of tiny models is some thirty jobs of a tenth of a second each, behind imports of five to ten seconds each,
and a plan of it a second behind imports of three. `forked_steps` gives variables whose PATH holds a `python` that
passes `python -m lethe.steps.<step>` and `python -m snakemake` on to that process and is any other python otherwise.
Every job stays a process of its own, with its own arguments, folder, variables, output and exit code; it is killed when
the `python` that stands for it is. The library is imported anew in each.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORKED = "LETHE_TESTS_PYTHON"  # names the python that passes on
IMPORTED = (
    "torch, numpy, pandas, PIL.Image, safetensors.torch, scipy.linalg, scipy.ndimage, matplotlib.pyplot, cleanfid.fid, "
    "pyarrow.parquet, peft, accelerate, diffusers, diffusers.loaders, transformers, "
    "jsonschema, yaml, snakemake.cli, snakemake.api, snakemake.workflow, snakemake.executors.local"
)
CLIENT = """#!{python} -SE
import os, sys
if sys.argv[1:2] == ["-m"] and (sys.argv[2] == "snakemake" or sys.argv[2].startswith("lethe.steps.")):
    import array, json, socket
    job = socket.socket(socket.AF_UNIX)
    job.connect({address!r})
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    job.sendmsg([b"."], rights)
    job.sendall(json.dumps([os.getcwd(), dict(os.environ), sys.argv[2:]]).encode() + b"\\n")
    code = job.recv(16)
    sys.exit(int(code) if code else 1)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@contextmanager
def forked_steps(folder: Path) -> Iterator[dict[str, str]]:
    """Variables with which snakemake runs steps as forks, while the block runs; `folder` takes a small file."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"/tmp/lethe-steps-{os.getpid()}-{time.monotonic_ns()}"  # short: paths of sockets are
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE)
    try:
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the process that steps are forked from did not start")
        first = os.pathsep.join([str(folder), str(Path(sys.executable).parent)])
        yield {"PATH": f"{first}{os.pathsep}{os.environ['PATH']}", FORKED: str(client)}
    finally:
        server.terminate()
        server.wait()
        Path(address).unlink(missing_ok=True)


def serve(address: str) -> None:
    """Fork a child for every job that comes in at the socket `address`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    for name in IMPORTED.split(", "):
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    print("ready", flush=True)
    while True:
        job, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            attend(job)
        job.close()


def attend(job: socket.socket) -> None:
    """Run one job in a further child, tell its exit code; kill it when the client is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, rights, _, _ = job.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", rights[0][2])
    text = b""
    while not text.endswith(b"\n"):
        text += job.recv(1 << 20)
    folder, variables, arguments = json.loads(text)
    child = os.fork()
    if child == 0:
        job.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        become_step(folder, variables, arguments)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([ended, job], [], [])
    if ended not in readable:  # the client was killed
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if ended in readable:
        job.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def become_step(folder: str, variables: dict[str, str], arguments: list[str]) -> None:
    """What `python -m` does, in this process."""
    import runpy

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [part for part in variables.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.argv = arguments
    code = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
