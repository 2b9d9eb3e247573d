"""Processes by names that are never used twice, and whether one is gone.

A process id is used again; with the process's start time, the machine's boot and the process namespace (a
container's, say) it is not. Only what the same namespace can see is ever judged.
"""

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker, as the lease table knows it."""

    host: str
    pid: int
    process: str  # tells this process from every other on any machine, ever
    device: str

    @property
    def name(self) -> str:
        """The owner as people read it."""
        return f"{self.host}/{self.pid}"


def current_owner(device: str) -> Owner:
    """Give this process as an owner."""
    pid = os.getpid()
    return Owner(host=socket.gethostname(), pid=pid, process=process_name(pid), device=device)


@functools.cache
def process_namespace() -> str:
    """Name the set of processes that this one can see: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # not Linux: nothing can be told


def process_name(pid: int) -> str:
    """Name a live process of our space; empty if there is none, or it cannot be told."""
    where = process_namespace()
    try:
        # The 22nd field of stat is the start time; the 2nd, the command in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{where}/{pid}/{fields[19]}" if where and fields[0] not in "ZX" else ""


def is_gone(name: str) -> bool:
    """Tell whether the process of our space that has this name is gone for certain."""
    pid = int(name.split("/")[-2])
    if process_name(pid) == name:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False  # another user's, whom /proc may hide from us
    except ProcessLookupError:
        pass
    return True
