"""A network between two ends that a test can cut; it needs root."""

import contextlib
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


def require_root(*tools: str) -> None:
    """Skip the test if it lacks root or one of the tools; in CI, fail instead."""
    command = ["unshare", "--net", "--mount", "true"]  # not allowed to root in a plain container
    if (
        os.geteuid() != 0
        or any(shutil.which(tool) is None for tool in (*tools, command[0]))
        or subprocess.run(command, capture_output=True, check=False).returncode != 0
    ):
        why = f"needs a root that may mount and create networks, and {', '.join(tools)}"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)


@dataclass(frozen=True, kw_only=True)
class End:
    """An end of the link.

    Attributes:
        ip: Arguments with which ``ip`` acts in the namespace of this end.
        interface: Name of the network interface.
        address: IP address.
    """

    ip: tuple[str, ...]
    interface: str
    address: str

    def hardware_address(self) -> str:
        words = ip(*self.ip, "-o", "link", "show", self.interface).split()
        return words[words.index("link/ether") + 1]

    def send_to(self, other: "End", hardware: str) -> None:
        """Send packets for the other end to this hardware address, whether it exists or not."""
        words = ("neigh", "replace", other.address, "lladdr", hardware, "dev", self.interface)
        ip(*self.ip, *words, "nud", "permanent")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link between this machine and a network namespace that can be cut silently."""

    namespace: str
    here: End
    there: End
    second: End  # a second address of this machine, which can be cut off alone

    def cut(self) -> None:
        """Send all packets to a missing network card: without error or reset they are lost."""
        self.here.send_to(self.there, "02:00:00:00:00:99")
        self.there.send_to(self.here, "02:00:00:00:00:99")

    def cut_second(self) -> None:
        self.there.send_to(self.second, "02:00:00:00:00:99")

    def heal_second(self) -> None:
        self.there.send_to(self.second, self.here.hardware_address())

    def heal(self) -> None:
        self.here.send_to(self.there, self.there.hardware_address())
        self.there.send_to(self.here, self.here.hardware_address())


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def network_link(number: int = 0) -> Iterator[Link]:
    """Create the first or second link of this process (``number`` 0 or 1)."""
    require_root("ip", "tc")
    index = (2 * os.getpid() + number) % 2**14
    first = ipaddress.ip_address("198.18.0.0") + 8 * index  # a range reserved for network tests
    namespace = f"hpo{index}"
    here = End(ip=(), interface=f"hpoa{index}", address=str(first + 1))
    there = End(ip=("-n", namespace), interface=f"hpob{index}", address=str(first + 2))
    second = End(ip=(), interface=here.interface, address=str(first + 3))
    ip("netns", "add", namespace)
    try:
        kind = ("type", "veth", "peer", "name", there.interface, "netns", namespace)
        ip("link", "add", here.interface, *kind)
        for end in (here, there, second):
            ip(*end.ip, "addr", "add", f"{end.address}/29", "dev", end.interface)
            ip(*end.ip, "link", "set", end.interface, "up")
        yield Link(namespace=namespace, here=here, there=there, second=second)
    finally:
        # Deleting the namespace deletes the link too, but only some time later.
        subprocess.run(["ip", "link", "delete", here.interface], check=False, capture_output=True)
        ip("netns", "delete", namespace)
