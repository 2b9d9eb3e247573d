"""Where studies, their files and their data are, if a flag, an argument or the environment does not say."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hpo import logs
from hpo.errors import HpoError

STORE = "sqlite:///storage/hpo.db"
ARTIFACTS = "storage/artifacts"
DATA = Path("storage/data")
LEASE_SECONDS = 60.0

P = TypeVar("P", str, Path)


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Where a study's database, files and data are."""

    store: str = STORE  # URL of the database
    artifacts: str = ARTIFACTS  # folder or URL
    data: Path = DATA  # folder of the data sets


def find_locations(
    store: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Locations:
    """Return the locations that are given, or else those of the environment, or else the defaults.

    Paths become absolute: a script or a notebook may change its working directory.

    Args:
        store: URL of the database; None: ``HPO_STORE``, or ``sqlite:///storage/hpo.db``.
        artifacts: Folder or URL of the files; None: ``HPO_ARTIFACTS``, or ``storage/artifacts``.
        data: Folder of the data sets; None: ``HPO_DATA``, or ``storage/data``.

    Raises:
        StoreError: ``store`` is no URL of an SQLite file or a Postgres database.
        HpoError: A path begins with ``~`` and a name of which there is no home folder.
    """
    url = os.environ.get("HPO_STORE") or STORE if store is None else store
    place = os.environ.get("HPO_ARTIFACTS") or ARTIFACTS if artifacts is None else os.fspath(artifacts)
    folder = os.environ.get("HPO_DATA") or DATA if data is None else data
    place = expand_home(place)
    return Locations(
        store=_absolute_url(url),
        artifacts=place if "://" in place else str(Path(place).absolute()),
        data=expand_home(Path(folder)).absolute(),
    )


def _absolute_url(text: str) -> str:
    from hpo.store import database

    url = database.parse_url(text)
    if url.get_backend_name() != "sqlite" or url.query:
        return text
    return url.set(database=str(Path(str(url.database)).absolute())).render_as_string(hide_password=False)


def worker_environment(
    places: Locations, lease_seconds: float, cache_gb: float, logging: logs.LogOptions
) -> dict[str, str]:
    """Return the settings of workers as environment variables, which hide passwords from ps.

    Args:
        places: Where the study is.
        lease_seconds: From one renewal of a lease to its expiry.
        cache_gb: Gigabytes that decoded image files may take on this machine.
        logging: What they log, and how.
    """
    return {
        "HPO_STORE": places.store,
        "HPO_ARTIFACTS": places.artifacts,
        "HPO_DATA": str(places.data),
        "HPO_LEASE_SECONDS": str(lease_seconds),
        "HPO_CACHE_GB": str(cache_gb),
        **logging.environment(),
    }


def expand_home(path: P) -> P:
    """Return a path with its leading ``~`` or ``~user`` replaced by that home folder.

    Raises:
        HpoError: There is no such home folder.
    """
    if not str(path).startswith("~"):
        return path
    try:
        return type(path)(Path(path).expanduser())
    except RuntimeError:
        raise HpoError(f"'{path}': there is no such home folder; write the path out") from None
