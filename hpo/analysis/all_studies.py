"""All studies of a store, each with its best setting."""

from collections.abc import Iterator
from dataclasses import dataclass

from hpo.analysis import health, results
from hpo.analysis.health import Problem
from hpo.analysis.results import SettingResult
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError
from hpo.store import status, studies
from hpo.store.status import Status
from hpo.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class ReadStudy:
    """A study that can be read."""

    status: Status
    best: SettingResult | None  # None: no trial is complete
    problems: tuple[Problem, ...]


def read_each(
    storage: Storage, artifacts: Artifacts | None = None
) -> Iterator[tuple[str, ReadStudy | DefinitionError]]:
    """Yield each study of hpo in a store, oldest first: its name, and what it is or why it cannot be read.

    Another version of hpo may have made a study that this one cannot read.

    Args:
        storage: The store.
        artifacts: Where the studies' files are, for their problems; None: unknown.

    Raises:
        StoreError: The store cannot be read.
    """
    for name in studies.study_names(storage):
        try:
            read = status.read_snapshot(storage, name)
            problems = health.find_problems(read, artifacts)
            yield name, ReadStudy(status=read.status, best=results.best_of(read), problems=problems)
        except DefinitionError as error:
            yield name, error
