"""A study that is read again and again while it runs, and what is shown of it each time."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from hpo.analysis import records, results
from hpo.analysis.health import Problem
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.api.live_view import (
    describe_starting,
    live_view,
    problem_lines,
    status_headline,
    workers_view,
)
from hpo.store import status
from hpo.store.status import Snapshot, Status
from hpo.store.storage import Storage
from hpo.store.trial_cache import TrialCache


@dataclass(frozen=True, kw_only=True)
class StudyReading:
    """What one read of a study found, with its trials as records, and its best setting if there is one."""

    snapshot: Snapshot
    records: list[TrialRecord]
    best: SettingResult | None

    @property
    def status(self) -> Status:
        """The study's status."""
        return self.snapshot.status


class LiveStudy:
    """A study that one thread reads while others show what the last read found.

    Attributes:
        last: What the last read found; None before the first one.
        starting: How many of the workers are starting, as their supervisor says.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.last: StudyReading | None = None
        self.starting = 0
        self._storage, self._name = storage, name
        self._cache, self._made = TrialCache(), records.MadeRecords()

    def read(self) -> StudyReading:
        """Read the study; after the first read only what has changed.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The study was deleted, or the database refuses the request.
        """
        read = status.read_snapshot(self._storage, self._name, self._cache)
        found = records.trial_records(read.definition, read.trials, self._made)
        best = results.best_setting(read.definition, found)
        self.last = StudyReading(snapshot=read, records=found, best=best)
        return self.last

    def running_view(self, rows: int, *, stopping: bool) -> RenderableType:
        """Return what the supervisor of a study's workers shows of it.

        Args:
            rows: Number of lines that it may take.
            stopping: Whether the user has asked to stop.
        """
        last, starting = self.last, self.starting
        if last is None:
            return Text(f"{self._name}: {describe_starting(starting) or 'reading the study'}", style="bold")
        return live_view(last.status, last.records, last.best, rows, starting=starting, stopping=stopping)

    def watch_view(self, height: int, found: tuple[Problem, ...]) -> RenderableType:
        """Return what ``hpo status --watch`` shows on a terminal after a read.

        Args:
            height: The lines of the terminal.
            found: What is wrong with the study.
        """
        assert self.last is not None
        now, problems = self.last.status, problem_lines(found)
        rows = max(height - 7 - len(problems) - len(now.workers) - len(now.waits), 3)
        shown = live_view(now, self.last.records, self.last.best, rows)
        return Group(*problems, status_headline(now), *workers_view(now, found), shown)
