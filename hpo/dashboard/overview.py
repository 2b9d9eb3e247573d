"""A page with all studies of a store: state, progress, workers, best value, and where to read more.

optuna-dashboard's own list has names alone. The page is built anew for each request, and reloads itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2

from hpo.analysis import all_studies, results
from hpo.analysis.all_studies import ReadStudy
from hpo.analysis.formatting import describe_test_split
from hpo.analysis.sections import format_setting
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError
from hpo.store import studies
from hpo.store.storage import Storage

TEMPLATE = Path(__file__).with_name("overview.html.j2")
RELOAD_SECONDS = 30
STATES = ("complete", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """What the page says of a study; each text is shown as it is."""

    name: str
    study_id: int  # in the database
    state: str
    progress: str  # trials that have ended, of how many
    trials: tuple[str, ...]  # their numbers by state
    workers: tuple[str, ...]  # those that live
    value: str = ""  # of the best setting; empty if no trial is complete
    caveats: tuple[tuple[str, str], ...] = ()  # what keeps the value from being taken for more than it is
    setting: str = ""
    problems: tuple[str, ...] = ()  # what is wrong, or why the study cannot be read


def render_overview(storage: Storage, artifacts: Artifacts) -> str:
    """Return the page as HTML.

    Args:
        storage: The store.
        artifacts: Where the studies' files are.

    Raises:
        StoreError: The store cannot be read.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        rows=list(read_rows(storage, artifacts)), reload_seconds=RELOAD_SECONDS, element_id=element_id
    )


def element_id(study_id: int) -> str:
    """Return the id of a study's line on the page, for links to it."""
    return f"study-{study_id}"


def read_rows(storage: Storage, artifacts: Artifacts) -> Iterator[StudyRow]:
    """Yield a row for each study of hpo in the store, the newest first.

    Args:
        storage: The store.
        artifacts: Where the studies' files are.

    Raises:
        StoreError: The store cannot be read.
    """
    for name, read in reversed(list(all_studies.read_each(storage, artifacts))):
        study_id = studies.find_study_id(storage, name)
        if isinstance(read, DefinitionError):
            yield StudyRow(
                name=name,
                study_id=study_id,
                state="unreadable",
                progress="",
                trials=(),
                workers=(),
                problems=(str(read),),
            )
        else:
            yield _make_row(study_id, read)


def _make_row(study_id: int, read: ReadStudy) -> StudyRow:
    now, best = read.status, read.best
    places = [(worker.owner, worker.device) for worker in now.workers if worker.is_alive]
    places += [(worker.owner, worker.device) for worker in now.waiting_workers]
    return StudyRow(
        name=now.study,
        study_id=study_id,
        state=now.state,
        progress=f"{now.ended} of {now.budget}",
        trials=tuple(f"{now.trials[state]} {state}" for state in STATES if now.trials[state]),
        workers=tuple(f"{owner} on {device}" for owner, device in places),
        value=""
        if best is None
        else f"{best.metric.label} {results.describe_value(best)}{describe_test_split(now.selection)}",
        caveats=() if best is None else tuple(results.caveats(best)),
        setting="" if best is None else format_setting(best.trial.params),
        problems=tuple(map(str, read.problems)),
    )
