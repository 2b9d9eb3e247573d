"""What a stored study has found: the methods of ``hpo.Study`` that read it and change nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna

from hpo.analysis import documents, importance, records, results
from hpo.analysis.documents import BestSetting, StudyStatus, StudyTrial
from hpo.analysis.importance import Importance
from hpo.api.locations import Locations
from hpo.artifacts.folders import Artifacts
from hpo.errors import HpoError
from hpo.store import database, folders, status, studies
from hpo.store.status import Snapshot
from hpo.store.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

Evaluator = Literal["ped-anova", "fanova", "mdi"]


class StudyResults:
    """A study in a store, and what it has found so far.

    Each method reads the store anew, also while workers run.

    Attributes:
        name: The study's name.
        locations: Where its database, its files and its data are.
        storage: The connection to its database.
    """

    def __init__(self, name: str, locations: Locations, storage: Storage) -> None:
        self.name = name
        self.locations = locations
        self.storage = storage

    def __repr__(self) -> str:
        return f"hpo.Study({self.name!r}, store={database.hide_password(self.storage.location)!r})"

    def _repr_html_(self) -> str:
        """Return the study as HTML, which a notebook shows: state, counts, best result and history."""
        from hpo.api.html import study_html

        return study_html(self.read())

    def check_exists(self) -> None:
        """Raise a StoreError unless the study is in the store, and hpo's; its definition is not read."""
        if self.name not in studies.study_names(self.storage):
            studies.read_definition(self.storage, self.name)  # says what is there instead

    def read(self) -> Snapshot:
        """Return the study with its trials as the rest of hpo reads them, at one moment."""
        return status.read_snapshot(self.storage, self.name)

    def status(self) -> StudyStatus:
        """Return the state of the study: trials, best setting, workers, budgets, estimated time left.

        Raises:
            StoreError: The study is gone, or the store cannot be read.

        Example:
            >>> study.status().trials["complete"]
            8
        """
        read = self.read()
        logs = self.logs_folder()
        return documents.study_status(
            read.status, results.best_of(read), None if logs is None else str(logs)
        )

    def artifacts_folder(self) -> str | None:
        """Return the name of the study's folder in the artifacts; None if it names none that hpo made."""
        return folders.stored_folder(self.storage, studies.find_study_id(self.storage, self.name))

    def logs_folder(self) -> Path | None:
        """Return the folder of the logs of Slurm's workers; None if there is none."""
        folder = self.artifacts_folder()
        logs = None if folder is None else Artifacts(self.locations.artifacts).logs_folder(folder)
        return logs if logs is not None and logs.is_dir() else None

    def trials(self) -> list[StudyTrial]:
        """Return all trials of the study by number, also those that wait.

        Raises:
            StoreError: The study is gone, or the store cannot be read.

        Example:
            >>> [trial.value for trial in study.trials() if trial.state == "complete"]
            [0.9667, 0.9611]
        """
        return [documents.study_trial(each) for each in status.read_trials(self.storage, self.name)]

    def best(self, n: int | None = None) -> list[BestSetting]:
        """Return the best settings of the study, best first, with what their values rest on.

        A setting with several seeds counts once, with the mean over its seeds.

        Args:
            n: How many to return at most; None: one, or with several objectives the whole Pareto front.

        Returns:
            The settings; empty if no trial is complete.

        Raises:
            StoreError: The study is gone, or the store cannot be read.

        Example:
            >>> study.best()[0].params
            {'lr': 0.0071, 'optimizer': 'adam'}
        """
        found = results.read_best(self.storage, self.name)
        count = (found[0].front if found else 0) or 1
        return [documents.best_setting_record(each) for each in found[: count if n is None else n]]

    def importance(self, evaluator: Evaluator = "ped-anova") -> Importance:
        """Return how strongly each parameter influenced the metric, over the complete trials.

        Args:
            evaluator: The method that estimates it.

        Returns:
            The shares of the parameters, or why the trials cannot tell them.

        Raises:
            StoreError: The study has fewer than two complete settings, or the store cannot be read.

        Example:
            >>> study.importance().importances
            {'lr': 0.81, 'optimizer': 0.19}
        """
        if evaluator not in importance.EVALUATORS:
            allowed = ", ".join(importance.EVALUATORS)
            raise HpoError(f"evaluator: found {evaluator!r}; allowed: {allowed}")
        return importance.study_importance(self.storage, self.name, evaluator)

    def dataframe(self) -> "pd.DataFrame":
        """Return the trials as a table of pandas, one row each; needs the extra ``pandas``.

        The columns are those of ``hpo trials --csv``: ``number``, ``state``, ``value``; each parameter
        under its name; ``epochs``, ``best_epoch``, ``wall_time_seconds``, ``attempts``, ``point``,
        ``site`` and the other attributes of points; ``best_value``, ``images``, ``baseline``; and with
        several objectives ``values_...`` for each. ``value`` is that of an ended trial, ``best_value``
        that of the best epoch so far. Values are missing where a trial has none.

        Raises:
            HpoError: pandas is not installed.
            StoreError: The study is gone, or the store cannot be read.

        Example:
            >>> study.dataframe().plot.scatter("lr", "value", logx=True)
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise HpoError(
                "dataframe() needs pandas, which is not installed; run: pip install pandas"
            ) from error
        definition = studies.read_definition(self.storage, self.name)
        trials = status.read_trials(self.storage, self.name)
        found = records.trial_records(definition, trials)
        columns, rows = documents.trials_table(trials, found, definition.attribute_names)
        return pd.DataFrame(rows, columns=columns)

    @property
    def optuna(self) -> optuna.Study:
        """The study as Optuna's own, for its plots and tools; it shares our connection to the store.

        Example:
            >>> optuna.visualization.plot_slice(study.optuna)
        """
        studies.find_study_id(self.storage, self.name)  # says which studies there are
        return optuna.load_study(study_name=self.name, storage=self.storage)
