"""What a stored study has found: the methods of ``hpo.Study`` that change nothing in its store."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna

from hpo import logs
from hpo.analysis import documents, health, importance, records, results
from hpo.analysis.documents import BestSetting, StudyStatus, StudyTrial
from hpo.analysis.health import Problem
from hpo.analysis.importance import Importance
from hpo.api.locations import Locations
from hpo.artifacts.folders import Artifacts
from hpo.errors import HpoError
from hpo.store import database, folders, status, studies
from hpo.store.status import Snapshot
from hpo.store.storage import Storage
from hpo.study.definition import Definition

if TYPE_CHECKING:
    import pandas as pd

    from hpo.analysis.cost import Forecast
    from hpo.analysis.strategies import Comparison
    from hpo.analysis.timeline import TimelineEntry
    from hpo.export.card import Metrics

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

        return study_html(read := self.read(), self.problems(read))

    def check_exists(self) -> None:
        """Raise a StoreError unless the study is in the store, and hpo's; its definition is not read."""
        if self.name not in studies.study_names(self.storage):
            studies.read_definition(self.storage, self.name)  # says what is there instead

    def read(self) -> Snapshot:
        """Return the study with its trials as the rest of hpo reads them, at one moment."""
        return status.read_snapshot(self.storage, self.name)

    def definition(self) -> Definition:
        """Return what the study is: what is fixed, searched and listed."""
        return studies.read_definition(self.storage, self.name)

    def status(self) -> StudyStatus:
        """Return the state of the study: trials, best setting, workers, budgets, estimated time left.

        Raises:
            StoreError: The study is gone, or the store cannot be read.

        Examples:
            >>> study.status().trials["complete"]
            8
        """
        read, logs = self.read(), self.logs_folder()
        return documents.study_status(
            read.status,
            results.best_of(read),
            self.problems(read),
            None if logs is None else str(logs),
        )

    def problems(self, read: Snapshot) -> tuple[Problem, ...]:
        """Return what is wrong with the study, as it was read with ``read``."""
        return health.find_problems(read, Artifacts(self.locations.artifacts))

    def artifacts_folder(self) -> str | None:
        """Return the name of the study's folder in the artifacts; None if it names none that hpo made."""
        return folders.stored_folder(self.storage, studies.find_study_id(self.storage, self.name))

    def logs_folder(self) -> Path | None:
        """Return the folder of the log files of the workers; None if there is none here."""
        folder = self.artifacts_folder()
        logs = None if folder is None else Artifacts(self.locations.artifacts).logs_folder(folder)
        return logs if logs is not None and logs.is_dir() else None

    def trials(self) -> list[StudyTrial]:
        """Return all trials of the study by number, also those that wait.

        Raises:
            StoreError: The study is gone, or the store cannot be read.

        Examples:
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

        Examples:
            >>> study.best()[0].params
            {'lr': 0.0071, 'optimizer': 'adam'}
        """
        found = results.read_best(self.storage, self.name)
        count = (found[0].front if found else 0) or 1
        return [documents.best_setting_record(each) for each in found[: count if n is None else n]]

    def events(self, trial: int | None = None) -> "list[TimelineEntry]":
        """Return what happened to the study: who ran which trial, when, why attempts ended, and orders.

        Args:
            trial: Only what is about the trial with this number; None for all.

        Returns:
            The entries, oldest first. An attempt that died has no end before another worker claims its
            trial.

        Raises:
            StoreError: There is no such trial, the study is gone, or the store cannot be read.

        Examples:
            >>> [entry.event for entry in study.events(trial=0)]
            ['claimed', 'complete']
        """
        from hpo.analysis.timeline import read_timeline

        return read_timeline(self.storage, self.name, trial)

    def importance(self, evaluator: Evaluator = "ped-anova") -> Importance:
        """Return how strongly each parameter influenced the metric, over the complete trials.

        Args:
            evaluator: The method that estimates it.

        Returns:
            The shares of the parameters, or why the trials cannot tell them.

        Raises:
            StoreError: The study has fewer than two complete settings, or the store cannot be read.

        Examples:
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
        ``site`` and the other attributes of points; ``best_value``, ``images``, ``baseline``; ``start``
        and ``end`` (local, as ISO 8601); and with several objectives ``values_...`` for each. ``value`` is
        that of an ended trial, ``best_value`` that of the best epoch so far. Values are missing where a
        trial has none.

        Raises:
            HpoError: pandas is not installed.
            StoreError: The study is gone, or the store cannot be read.

        Examples:
            >>> study.dataframe().plot.scatter("lr", "value", logx=True)
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise HpoError(
                "dataframe() needs pandas, which is not installed; run: pip install pandas"
            ) from error
        definition = self.definition()
        trials = status.read_trials(self.storage, self.name)
        found = records.trial_records(definition, trials)
        columns, rows = documents.trials_table(trials, found, definition.attribute_names)
        return pd.DataFrame(rows, columns=columns)

    def plan(self, devices: str = "auto") -> "Forecast":
        """Estimate the time, memory and disk space of the study on this machine, from a few training steps.

        A custom objective runs for one epoch. Nothing is stored.

        Args:
            devices: As ``run`` takes them.

        Returns:
            Seconds per epoch, memory and total, by kind of training; the disk space; the weights that
            trials will download.

        Raises:
            HpoError: A device does not exist or cannot run the study, or its data are missing.

        Examples:
            >>> study.plan("cuda:0").device_hours
            3.4
        """
        from hpo.api import images, planning

        definition, root = self.definition(), self.locations.data
        checked = images.check_images(definition, root, needed_here=True)
        scan = checked.scan if checked else None
        return planning.plan_study(definition, devices, root, scan, logs.write_line)

    def report(self, path: str | os.PathLike[str], csv: str | os.PathLike[str] | None = None) -> Path:
        """Write a report of the study: one HTML page with every table and plot, readable offline.

        Args:
            path: The HTML file to write.
            csv: A folder, into which each figure and table is written as CSV too; None: no CSV.

        Returns:
            The path of the page.

        Raises:
            StoreError: The study is gone, or the store cannot be read.
            ArtifactError: The page or a table cannot be written.

        Examples:
            >>> study.report("mine.html")
            PosixPath('mine.html')
        """
        from hpo.report import page

        found = page.read_report(self.storage, self.name, Artifacts(self.locations.artifacts))
        page.write_report(found, Path(path), None if csv is None else Path(csv))
        return Path(path)

    def export(self, folder: str | os.PathLike[str], trial: int | None = None) -> "Metrics":
        """Export a trial's model: weights, settings, metrics, model card and labels; see ``hpo.Model``.

        Args:
            folder: The folder to write: a new or an empty one.
            trial: The number of the trial; None: the best of the search, or after ``finish`` a run of the
                setting that this ranks first.

        Returns:
            How good the model is, how that was measured, and why this trial.

        Raises:
            StoreError: There is no such trial, or it has no weights.
            ArtifactError: Files of the trial are missing, or the folder cannot be written.

        Examples:
            >>> study.export("winner").value
            0.9667
        """
        from hpo.export.folder import export_trial

        place = Artifacts(self.locations.artifacts)
        return export_trial(self.storage, self.name, trial, place, Path(folder))

    def simulate(
        self, sampler: str | None = None, pruner: str | None = None, *, workers: int = 1, repeats: int = 20
    ) -> "Comparison":
        """Replay the trials' curves under other search strategies, in virtual time, and recommend one.

        Args:
            sampler: A sampler, as in a study file; None: the study's.
            pruner: A pruner, as in a study file; None: the study's.
            workers: Number of simulated workers, at least 1.
            repeats: Number of simulated studies per strategy, at least 2.

        Returns:
            How the strategies compare, and which one to take.

        Raises:
            HpoError: Too few trials ran all their epochs, or there is no such sampler or pruner.

        Examples:
            >>> study.simulate(workers=8).advice
            'best reached the target first'
        """
        from hpo.analysis import recorded_curves, strategies
        from hpo.analysis.surrogate import Surrogate

        if workers < 1 or repeats < 2:
            raise HpoError(f"want workers >= 1 and repeats >= 2, found {workers} and {repeats}")
        recorded = recorded_curves.curves_of_study(self.storage, self.name)
        chosen = strategies.choose_strategies(recorded, sampler, pruner)
        return strategies.compare_strategies(Surrogate(recorded), chosen, workers=workers, repeats=repeats)

    @property
    def optuna(self) -> optuna.Study:
        """The study as Optuna's own, for its plots and tools; it shares our connection to the store.

        Examples:
            >>> optuna.visualization.plot_slice(study.optuna)
        """
        studies.find_study_id(self.storage, self.name)  # says which studies there are
        return optuna.load_study(study_name=self.name, storage=self.storage)
