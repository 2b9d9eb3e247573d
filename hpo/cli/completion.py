"""What a shell completes beside verbs and options: study files, names of studies, numbers of trials."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from hpo.api.locations import STORE

SHIPPED_STUDIES = (  # what study.file.shipped_studies finds; help and completion do not read folders
    *("finetune", "original-grid", "own-images", "own-images-best", "own-images-quick"),
    *("quickstart", "wishlist"),
)


def complete_study_file(incomplete: str) -> list[str]:
    """Return the studies that ship with hpo and the study files in the folder that is typed so far."""
    return _beginning(incomplete, [*SHIPPED_STUDIES, *_study_files(incomplete)])


def _study_files(incomplete: str) -> Iterator[str]:
    """Yield the files in a folder that end in .toml, with the folder as it was typed."""
    folder = "".join(incomplete.rpartition("/")[:2])
    try:
        names = sorted(path.name for path in Path(folder).expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: ~ and a user that does not exist
        return
    yield from (f"{folder}{name}" for name in names if name.endswith(".toml"))


def complete_study_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the studies in the store."""
    from hpo.store import listing

    return _beginning(incomplete, listing.list_studies(_store(ctx)))


def complete_trial(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the numbers of the trials of the study that is named before."""
    from hpo.store import listing

    # An option without its value, which is being typed, keeps the arguments from their parameters.
    name = ctx.params.get("name") or next(iter(ctx.args), None)
    numbers = listing.list_trials(_store(ctx), name) if name else []
    return _beginning(incomplete, map(str, numbers))


def _store(ctx: typer.Context) -> str:
    """Return the URL of the store, as ``--store``, the environment or the default says it."""
    return ctx.params.get("store_url") or os.environ.get("HPO_STORE") or STORE


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
