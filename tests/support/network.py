"""A network of two ends that a test can cut; it needs root."""

import contextlib
import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


def want_root(*tools: str) -> None:
    """Skip a test that wants root and tools where they are not; never in CI."""
    command = ["unshare", "--net", "--mount", "true"]  # which root in a plain container may not
    if (
        os.geteuid() != 0
        or any(shutil.which(tool) is None for tool in (*tools, command[0]))
        or subprocess.run(command, capture_output=True, check=False).returncode != 0
    ):
        why = f"wants a root that may mount and make networks, and {', '.join(tools)}"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)


@dataclass(frozen=True, kw_only=True)
class End:
    """An end of the cable: the words by which ``ip`` reaches it, its interface and its address."""

    ip: tuple[str, ...]
    interface: str
    address: str

    def hardware(self) -> str:
        words = ip(*self.ip, "-o", "link", "show", self.interface).split()
        return words[words.index("link/ether") + 1]

    def send_to(self, other: "End", hardware: str) -> None:
        """Send what is for the other end to this network card, there or not."""
        words = ("neigh", "replace", other.address, "lladdr", hardware, "dev", self.interface)
        ip(*self.ip, *words, "nud", "permanent")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A cable between this machine and a network namespace, which can be cut without a sign of it."""

    namespace: str
    here: End
    there: End
    aside: End  # another address of this machine, to be cut off alone

    def cut(self) -> None:
        """Send everything to a card that is not there: no error, no reset, packets just vanish."""
        self.here.send_to(self.there, "02:00:00:00:00:99")
        self.there.send_to(self.here, "02:00:00:00:00:99")

    def cut_aside(self) -> None:
        self.there.send_to(self.aside, "02:00:00:00:00:99")

    def heal_aside(self) -> None:
        self.there.send_to(self.aside, self.here.hardware())

    def heal(self) -> None:
        self.here.send_to(self.there, self.there.hardware())
        self.there.send_to(self.here, self.here.hardware())


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def linked(number: int = 0) -> Iterator[Link]:
    """Lay a process's first or second cable (0 or 1)."""
    want_root("ip", "tc")
    mark = (2 * os.getpid() + number) % 2**14
    first = ipaddress.ip_address("198.18.0.0") + 8 * mark  # of a range that is for tests of networks
    space = f"hpo{mark}"
    here = End(ip=(), interface=f"hpoa{mark}", address=str(first + 1))
    there = End(ip=("-n", space), interface=f"hpob{mark}", address=str(first + 2))
    aside = End(ip=(), interface=here.interface, address=str(first + 3))
    ip("netns", "add", space)
    try:
        kind = ("type", "veth", "peer", "name", there.interface, "netns", space)
        ip("link", "add", here.interface, *kind)
        for end in (here, there, aside):
            ip(*end.ip, "addr", "add", f"{end.address}/29", "dev", end.interface)
            ip(*end.ip, "link", "set", end.interface, "up")
        yield Link(namespace=space, here=here, there=there, aside=aside)
    finally:
        # The namespace would take the cable with it, but some time later.
        subprocess.run(["ip", "link", "delete", here.interface], check=False, capture_output=True)
        ip("netns", "delete", space)
