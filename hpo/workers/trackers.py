"""What an experiment tracker gets of a trial, and which trackers there are.

A worker and its tracker process exchange ``TrackedTrial`` records, and each tracker's module takes them.
This module imports nothing heavy, since the tracker process needs neither PyTorch nor a database.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from hpo.errors import DefinitionError, error_text, shorten

NO_TRACKER = "none"
RUNNING = "running"
LEFT_STATES = ("released", "paused", "lost")  # in which a trial may go on later
MAX_ERROR_LENGTH = 300  # characters of an error that a warning quotes


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """What is new about a trial, or all that the tracker has not yet.

    Attributes:
        run: The name of the trial's run, which no other trial of any store has; every attempt has the same.
        study: The name of the study.
        number: The number of the trial.
        state: ``running``, or the state of ``TrialEnded``.
        params: The trial's parameters.
        attributes: Facts about it: texts and numbers.
        values: Its value, or one for each objective, by name.
        epochs: By epoch, the measurements, under the names of the columns of ``epochs.csv``.
        files: Texts of files by name.
    """

    run: str
    study: str
    number: int
    state: str
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people see: ``mine/0003``."""
        return f"{self.study}/{self.number:04d}"

    def updated(self, later: "TrackedTrial") -> "TrackedTrial":
        """Return this with what a later record of the same trial adds or replaces."""
        return replace(
            later,
            params={**self.params, **later.params},
            attributes={**self.attributes, **later.attributes},
            values={**self.values, **later.values},
            epochs={**self.epochs, **later.epochs},
            files={**self.files, **later.files},
        )

    def to_line(self) -> str:
        """Return the record as one line of JSON."""
        return f"{json.dumps(asdict(self))}\n"

    @classmethod
    def from_line(cls, line: str) -> "TrackedTrial":
        """Return the record that ``to_line`` wrote."""
        fields = json.loads(line)
        return cls(**{**fields, "epochs": {int(key): row for key, row in fields["epochs"].items()}})


class Tracker(Protocol):
    """An experiment tracker, as its process uses it."""

    def send(self, trial: TrackedTrial) -> None:
        """Send what is new about a trial; its run is created if there is none.

        Whatever it raises means that the same record, with what is new since, has to be sent again.
        """


def check_installed(tracker: str) -> None:
    """Raise a DefinitionError if the package of a tracker is not installed.

    Args:
        tracker: The study's ``search.track``.
    """
    if tracker == NO_TRACKER:
        return
    found = importlib.util.find_spec(tracker)
    if found is None or found.origin is None:  # a folder of that name, such as the one that W&B writes
        raise DefinitionError(
            f"search.track is '{tracker}', but the package {tracker} is not installed; install it with: "
            f"pip install 'hpo-vision[{tracker}]', or in a checkout: pip install '.[{tracker}]'; "
            "or run without a tracker: hpo run STUDY --track none"
        )


def describe_error(error: BaseException) -> str:
    """Return an error as part of one line, without the credentials that its URLs may contain."""
    return shorten(hide_credentials(f"{type(error).__name__}: {error_text(error)}"), MAX_ERROR_LENGTH)


def hide_credentials(text: str) -> str:
    """Return a text in one line, with user names and passwords removed from URLs."""
    return re.sub(r"://[^/\s@]*@", "://", " ".join(text.split()))
