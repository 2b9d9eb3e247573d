"""Unique names for processes, and the test whether the process of a lease is dead.

Linux uses process ids again. Together with the boot of the machine, the process namespace (a container has
its own) and the start time, an id never comes twice. Such a name is stored in the lease table, for example
``9f3c.../pid:[4026531836]/4711/83215``: boot id, namespace, process id, and start time in clock ticks since
boot. Workers of other versions read it, so its format stays as it is.

Only a process of our own namespace is ever declared dead: of the others this process can see nothing.
"""

import functools
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_STAT_BYTES = 4096  # more than the file has
_DEAD_STATES = ("Z", "X")  # a zombie, and one that its parent is just reaping


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker as the lease table stores it.

    Attributes:
        host: Name of the worker's machine.
        pid: Process id, within the worker's namespace.
        process: The process's unique name (``process_name``); empty on systems other than Linux.
        device: The device that the worker trains on, as the user knows it.
        hardware: What the device is, such as the name of the GPU.
        versions: Of hpo, PyTorch and Python, by name.
    """

    host: str
    pid: int
    process: str
    device: str
    hardware: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The owner as users see it: host and process id."""
        return f"{self.host}/{self.pid}"


def current_owner(device: str, hardware: str = "", versions: Mapping[str, str] | None = None) -> Owner:
    """Return this process as the owner of leases.

    Args:
        device: The device that it works on, as the user knows it.
        hardware: What the device is.
        versions: Of the programs that it runs, by name.
    """
    pid = os.getpid()
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        process=process_name(pid),
        device=device,
        hardware=hardware,
        versions=versions or {},
    )


@functools.cache
def process_namespace() -> str:
    """Name the set of processes that this one can see: this boot of this machine, this container.

    Returns:
        Boot id and process namespace; empty on systems other than Linux, where processes get no names.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_name(pid: int) -> str:
    """Return the unique name of a live process of our namespace.

    It is empty if there is no such process, if it is a zombie, and on systems other than Linux.
    """
    namespace = process_namespace()
    if not namespace:
        return ""
    try:
        state, *_, start_ticks = _read_stat(pid)
    except OSError:
        return ""
    return "" if state in _DEAD_STATES else f"{namespace}/{pid}/{start_ticks}"


def _read_stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state to its start in clock ticks since boot.

    psutil tells the start by the clock, which may be set, from a boot time that it reads anew each time. It
    takes four times as long, and a claim asks for every worker of this machine. For the same reason the
    file is read without Python's file objects.
    """
    file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        after_name = os.read(file, _STAT_BYTES).rpartition(b")")[2]  # a name may have any character
    finally:
        os.close(file)
    return after_name.decode().split(maxsplit=20)[:20]


def is_dead(name: str | None) -> bool:
    """Tell whether the process of a lease is dead for certain.

    Args:
        name: The process's unique name, as the lease table has it; None or empty if it has none.

    Returns:
        True only if the process ran in our own namespace and is gone, or is a zombie. False also if another
        user's process has its id now.
    """
    namespace = process_namespace()
    if not (namespace and name and name.startswith(f"{namespace}/")):
        return False
    digits = name.split("/")[-2]
    if not digits.isdecimal():
        return False  # no name that hpo has written
    pid = int(digits)
    if process_name(pid) == name:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False  # another user's process, which /proc may hide from us: psutil would call it gone
    except ProcessLookupError:
        pass
    return True
