"""Processes by names that are never used twice, and whether one is gone.

A process id is used again; with the process's start time, the machine's boot and the process namespace (a
container's, say) it is not. Only what the same namespace can see is ever judged.
"""

import os
from pathlib import Path


def space() -> str:
    """Name the set of processes that this one can see: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # not Linux: nothing can be told


def name_of(pid: int) -> str:
    """Name a live process of our space; empty if there is none, or it cannot be told."""
    where = space()
    try:
        # The 22nd field of stat is the start time; the 2nd, the command in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{where}/{pid}/{fields[19]}" if where and fields[0] not in "ZX" else ""


def is_gone(name: str) -> bool:
    """Tell whether the process of our space that has this name is gone for certain."""
    pid = int(name.split("/")[-2])
    if name_of(pid) == name:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False  # another user's, whom /proc may hide from us
    except ProcessLookupError:
        pass
    return True
