"""What happened to a study and its trials, in time: attempts and orders, from the store's own tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hpo.analysis.formatting import format_seconds
from hpo.errors import StoreError
from hpo.store import status, studies
from hpo.store.attempts import Attempt, read_attempts
from hpo.store.events import Event, read_events
from hpo.store.storage import Storage

CLAIMED = "claimed"  # event: a worker begins an attempt


@dataclass(frozen=True, kw_only=True)
class TimelineEntry:
    """Something that happened to a study: an entry of ``hpo events --json``.

    Attributes:
        time: When, in UTC, by the database's clock.
        event: ``claimed``, what an attempt ended with (see ``store.attempts``), or what somebody did (see
            ``store.events``).
        trial: The trial's number; None if the event is about the study.
        attempt: The number of the attempt; None for what people did.
        by: Host and process id of the worker, or user and host of the person.
        device: The worker's device; "" for what people did.
        hardware: What the device is.
        versions: Of hpo, PyTorch and Python, by name, with ``claimed``.
        epochs: The trial's last reported epoch, at the end of an attempt.
        seconds: How long the attempt took, at its end.
        reason: Why, or more about it; may be empty.
    """

    time: datetime
    event: str
    trial: int | None
    attempt: int | None
    by: str
    device: str = ""
    hardware: str = ""
    versions: Mapping[str, str] | None = None
    epochs: int | None = None
    seconds: float | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON, without those that the event does not have."""
        found = {name: value for name, value in vars(self).items() if value not in (None, "")}
        return found | {"time": self.time.isoformat(timespec="milliseconds")}


def describe_attempt(attempt: Attempt) -> str:
    """Return one line on an attempt: where it ran, since when, and how it ended."""
    where = f"{attempt.owner} on {attempt.device}"
    if attempt.hardware:
        where += f" ({attempt.hardware})"
    began = _moment(attempt.began).astimezone().isoformat(sep=" ", timespec="seconds")
    why = f": {attempt.reason}" if attempt.reason else ""
    if attempt.seconds is None:
        return f"{where}, since {began}{why}"
    after = f" after epoch {attempt.epochs}" if attempt.epochs else ""
    return f"{where}, from {began} for {format_seconds(attempt.seconds)}, {attempt.outcome}{after}{why}"


def read_timeline(storage: Storage, name: str, trial: int | None = None) -> list[TimelineEntry]:
    """Read what happened to a study, oldest first.

    What happened before the store had the tables of attempts and events is not there.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        trial: Only what is about the trial with this number; None for all.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study or trial, or the database refuses the request.
    """
    study_id = studies.find_study_id(storage, name)
    if trial is not None and trial not in {each.number for each in status.read_trials(storage, name)}:
        raise StoreError(f"study '{name}' has no trial {trial}")
    entries = [
        *(entry for each in read_attempts(storage, study_id, trial) for entry in _attempt_entries(each)),
        *(_event_entry(each) for each in read_events(storage, study_id) if trial in (None, each.trial)),
    ]
    return sorted(entries, key=lambda entry: entry.time)


def _attempt_entries(attempt: Attempt) -> Iterator[TimelineEntry]:
    """Yield that an attempt began and, if it has, that it ended."""
    began = TimelineEntry(
        time=_moment(attempt.began),
        event=CLAIMED,
        trial=attempt.trial,
        attempt=attempt.attempt,
        by=attempt.owner,
        device=attempt.device,
        hardware=attempt.hardware,
        versions=attempt.versions,
    )
    yield began if attempt.ended is not None else replace(began, reason=attempt.reason)
    if attempt.ended is not None:
        yield replace(
            began,
            time=_moment(attempt.ended),
            event=attempt.outcome or "",
            versions=None,
            epochs=attempt.epochs,
            seconds=attempt.seconds,
            reason=attempt.reason,
        )


def _event_entry(event: Event) -> TimelineEntry:
    return TimelineEntry(
        time=_moment(event.moment),
        event=event.kind,
        trial=event.trial,
        attempt=None,
        by=event.actor,
        reason=event.detail,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
