"""Start a job, warm where that is possible: in a fork of a process that has imported what jobs need.

    python -m lethe.frame.start STEP [PLUGIN ...] --settings JSON ...    # as lethe.steps.job, which runs in either case

Half of a small run is importing torch, diffusers and transformers in each job. The first job starts a process that has
done so (`lethe.frame.warm`); every job asks it for a fork, hands over its standard streams, passes on signals and ends
as the fork does. What a process inherits, the fork has from a first job that had all of it alike: variables, limits,
umask, cores, priority, ignored signals, group, session, cgroup. Jobs that differ have another such process.

The process listens at a socket in a folder that only its user can enter, and ends with its Snakemake or when no job
came for two minutes. Where anything is in the way of it, and with `LETHE_WARM=0`, a job starts cold.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from lethe.frame import warm

WARM = "LETHE_WARM"  # 0, or the process that the others outlive by nothing: Snakemake's
VARYING = ("PWD", "OLDPWD", "SHLVL", "_")  # variables that need not be alike
PATIENCE = 600.0  # seconds to wait for a process that still imports
MODULES = (  # what jobs import, and for the libraries that load their parts late, those parts
    "numpy",
    "torch",
    "pandas",
    "PIL.Image",
    "safetensors.torch",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.stats",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "jinja2",
    "tqdm",
    "cleanfid.fid",
    "peft",
    "accelerate",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.clip.image_processing_clip",
    "transformers.models.clipseg.modeling_clipseg",
    "transformers.models.clipseg.processing_clipseg",
    "diffusers.loaders",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers",
)


def main() -> None:
    """Run a job in a fork, or here."""
    owner = os.environ.get(WARM, "0")
    code = None if owner in ("", "0") else run_warm("lethe.steps.job", sys.argv[1:], owner=int(owner))
    if code is None:
        from lethe.steps.job import main

        return main()
    return end(code)


def end(code: int) -> None:
    """End as a process that ended so: by an exit code or, where it is negative, by a signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def run_warm(module: str, arguments: list[str], *, owner: int, modules: tuple[str, ...] = MODULES) -> int | None:
    """Run `python -m MODULE ARGUMENTS` in a fork of a process that has imported `modules`, and return its exit code.

    Minus a signal if one ended it, and None when nothing was run. The process ends when `owner` does.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/status").exists():
        return None
    try:
        connection = _connected(owner, modules)
        varying = {name: os.environ[name] for name in VARYING if name in os.environ}
        request = json.dumps([str(Path.cwd()), varying, module, arguments]).encode() + b"\n"
        connection.settimeout(PATIENCE)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        connection.sendmsg([b"."], rights)
        connection.sendall(request)
        if connection.recv(1) != b"t":
            return None
        connection.settimeout(None)
        _pass_signals(connection)
        connection.sendall(b"b")
    except (OSError, ValueError):
        return None
    told = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(16):
            told += part
    return int(told) if told.endswith(b"\n") else -signal.SIGKILL  # it was killed with its attendant


def _pass_signals(connection: socket.socket) -> None:
    def pass_on(number: int, _: object) -> None:
        with suppress(OSError):
            connection.send(bytes([number]))

    for number in warm.PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)


def _connected(owner: int, modules: tuple[str, ...]) -> socket.socket:
    """A connection to the process that has imported modules, started if there is none. Raises OSError."""
    folder = private_folder()
    address = folder / f"{owner}-{_likeness(modules)}"
    if warm.refusal(str(address)).exists():
        raise OSError("this process cannot be forked from one that has imported modules, as those start threads")
    with suppress(ConnectionRefusedError, FileNotFoundError):
        return _connect(address)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(ConnectionRefusedError, FileNotFoundError):  # meanwhile another job was here
            return _connect(address)
        _sweep(folder)
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(128)
            subprocess.Popen(
                [sys.executable, "-P", warm.__file__, str(listener.fileno()), str(owner), ",".join(modules)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                cwd="/",
            )
    return _connect(address)


def _connect(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except BaseException:
        connection.close()
        raise
    return connection


def private_folder() -> Path:
    """The folder for sockets, which nobody else can enter. Raises PermissionError where somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"lethe-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not private")
    return folder


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that were killed, as their Snakemake is gone too."""
    for path in folder.glob("[0-9]*-*"):
        if not Path(f"/proc/{path.name.partition('-')[0]}").exists():
            path.unlink(missing_ok=True)


def _likeness(modules: tuple[str, ...]) -> str:
    """16 hex digits of all that a process inherits and of what runs it."""
    umask = os.umask(0o077)
    os.umask(umask)
    status = Path("/proc/self/status").read_text()
    inherited = [
        {name: value for name, value in os.environ.items() if name not in VARYING},
        [resource.getrlimit(getattr(resource, name)) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")],
        [line for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn", "Uid", "Gid", "Groups", "Cpus"))],
        [umask, os.getpriority(os.PRIO_PROCESS, 0), os.getpgrp(), os.getsid(0)],
        [_read("/proc/self/cgroup"), _read("/proc/self/oom_score_adj"), str(Path("/proc/self/ns/mnt").readlink())],
        [sys.executable, sys.prefix, sys.version, warm.__file__, modules],
    ]
    return hashlib.sha256(json.dumps(inherited, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
