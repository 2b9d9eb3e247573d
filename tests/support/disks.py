"""Disks that a test fills or write-protects, and folders that it may not read."""

import contextlib
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


@contextlib.contextmanager
def mounted_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """Make a small disk at a path, for the block; needs a root that may mount."""
    path.mkdir()
    mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> None:
    """Leave no free byte on a disk; ``ballast`` takes them."""
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder within the block, not even root, who must be allowed to mount."""
    mount("--bind", "-o", "ro", folder, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def folder_without_rights() -> Iterator[Path]:
    """Yield an empty folder of a user who is bound by permissions; within the block this process is him.

    Root, who may read everything, becomes nobody for that time.
    """
    with tempfile.TemporaryDirectory(prefix="hpo-rights-") as name:
        before = os.geteuid()
        if before == 0:
            nobody = pwd.getpwnam("nobody").pw_uid
            os.chown(name, nobody, -1)
            os.seteuid(nobody)
        try:
            yield Path(name)
        finally:
            os.seteuid(before)
