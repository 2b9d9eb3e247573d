"""Names of processes, as workers of every version store and compare them."""

import os
from pathlib import Path

import pytest

from hpo.store import process


def name_from_proc(pid: int) -> str:
    """Return a process's name as versions before psutil built it, from /proc alone."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/pid").readlink()
    start_ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot}/{namespace}/{pid}/{start_ticks}"


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid()], ids=["own", "parent"])
def test_a_name_has_the_format_that_other_versions_compare(pid):
    assert process.process_name(pid) == name_from_proc(pid)


def test_the_owner_of_this_process_is_not_dead():
    owner = process.current_owner("cpu")
    assert owner.name == f"{owner.host}/{os.getpid()}"
    assert not process.is_dead(owner.process)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "another-boot/pid:[1]/1/1",
        *(f"{process.process_namespace()}/{end}" for end in ("x/y", "1", "")),
    ],
)
def test_a_process_without_a_name_or_of_another_namespace_is_never_dead(name):
    assert not process.is_dead(name)


def test_a_process_whose_id_was_reused_is_dead():
    namespace, _, start_ticks = process.process_name(os.getpid()).rpartition("/")
    assert process.is_dead(f"{namespace}/{int(start_ticks) - 1}")
