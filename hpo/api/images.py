"""The user's own images of a study: what is checked, and told, before the study is stored or planned."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo import logs
from hpo.errors import escape_surrogates

if TYPE_CHECKING:
    from hpo.study.definition import Definition
    from hpo.training.drawn_images import DrawnImages
    from hpo.training.folder_scan import FolderScan, Progress
    from hpo.training.used_files import ContentHashes, UsedFiles

LONG_SCAN = 10_000  # files from which on a scan is announced, where no bar can show it


@dataclass(frozen=True, kw_only=True)
class CheckedImages:
    """The user's own images of a study, which can be used."""

    drawn: "DrawnImages"
    scan: "FolderScan"
    hashes: "ContentHashes"  # of the files that were compared


def check_images(definition: "Definition", root: Path, *, needed_here: bool) -> CheckedImages | None:
    """Scan the user's own images, and print to stderr what they should know of them.

    Args:
        definition: The study.
        root: The data folder.
        needed_here: Fail also if they are missing, and copy a set of the Hugging Face hub. Otherwise they
            may be on the workers' machine only.

    Returns:
        The images; None if the study has none, or they are not here.

    Raises:
        DataError: If it cannot be used, or the study refuses unreadable images and there are any.
    """
    from hpo.training.config import Config, has_own_images

    settings = definition.trial_config({})
    if not isinstance(settings, Config) or not has_own_images(settings.dataset):
        return None
    from hpo.training import class_folders, drawn_images
    from hpo.training.used_files import ContentHashes

    hashes = ContentHashes()
    try:
        with scan_progress() as tell:
            drawn = drawn_images.draw_images(settings, root, tell, makes_copy=needed_here)
            scan = drawn.scan(hashes, tell)
    except class_folders.MissingImages:
        if needed_here:
            raise
        return None
    scan.check(settings.corrupt)
    for note in scan.notes():
        logs.tell(escape_surrogates(note))
    return CheckedImages(drawn=drawn, scan=scan, hashes=hashes)


def list_images(definition: "Definition", root: Path, *, needed_here: bool) -> "UsedFiles | None":
    """Check the study's images as ``check_images`` does, then hash the files that it uses.

    Args:
        definition: The study.
        root: The data folder.
        needed_here: As for ``check_images``.

    Returns:
        The files; None if the study has none, or they are not here.

    Raises:
        DataError: As ``check_images`` does, or if the file system fails.
    """
    images = check_images(definition, root, needed_here=needed_here)
    if images is None:
        return None
    with scan_progress() as tell:
        return images.drawn.list_used_files(images.hashes, tell)


@contextlib.contextmanager
def scan_progress() -> Iterator["Progress"]:
    """Show how far a scan is: a bar on a terminal, elsewhere one line if it may take long.

    Yields:
        A function that is called with what is done, how much of it, and of how much (0: unknown).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from hpo.api.live_view import open_stderr_console

    where, announced = open_stderr_console(), set[str]()
    if not where.is_terminal:

        def announce(what: str, done: int, total: int) -> None:
            if (total >= LONG_SCAN or not total) and what not in announced:
                announced.add(what)
                logs.tell(f"{what}{f': {total}' if total else ''}")

        yield announce
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=where, transient=True) as bar:
        task = bar.add_task("reading headers", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total or None
        )
