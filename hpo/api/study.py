"""A study in a store as an object: ``hpo.load``, ``hpo.studies``, and the methods that change a study."""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from hpo.analysis import all_studies, documents
from hpo.analysis.all_studies import ReadStudy
from hpo.analysis.documents import StudyStatus
from hpo.analysis.finish_result import FinishResult, read_result
from hpo.api import running
from hpo.api.locations import Locations, find_locations
from hpo.api.results import StudyResults
from hpo.api.retrying import RetriedTrial, retry_trials
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError, StoreError
from hpo.store import control, folders, lease_info, plan, status, studies, untried_settings
from hpo.store.storage import Storage
from hpo.study import file
from hpo.study.space import Value
from hpo.study.toml_text import dump_value
from hpo.workers.supervisor import BACKOFF_SECONDS, GRACE_SECONDS, Supervision

if TYPE_CHECKING:
    from hpo.training.custom import Objective


class Study(StudyResults):
    """A study in a store; ``hpo.create`` and ``hpo.load`` return one.

    In a notebook it shows its state, its best setting and its history. All that it says is read from the
    store when it is asked, so that a study can be followed from here while it runs elsewhere.

    Attributes:
        name: The study's name.
        locations: Where its database, its files and its data are.

    Examples:
        >>> study = hpo.load("quickstart")
        >>> study.best()[0].value
        0.9667
    """

    def run(
        self,
        devices: str = "auto",
        progress: bool = True,
        *,
        objective: "Objective | None" = None,
        lease_seconds: float | None = None,
        cache_gb: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        """Run the study on this machine until it is complete, a budget is used up, or it is interrupted.

        Workers are processes of their own, as those of ``hpo run``; a script needs no ``if __name__ ==
        "__main__":`` for them. Ctrl-C, or a notebook's interrupt, lets each worker save and exit, and then
        raises KeyboardInterrupt; a second one kills the workers. The same call continues the study. In
        another thread than the main one nothing can be interrupted: ``stop()`` ends the workers from
        anywhere. A study that is complete, paused or stopped is not run.

        Args:
            devices: ``auto`` (every GPU, or one worker per core as memory allows), ``cpu``, ``cpu:4`` (four
                workers) or ``cuda:0,cuda:1``.
            progress: Show the trials while they run: a live view on a terminal and in a notebook, elsewhere
                a line per event on stderr. Without it, only what is no trial's progress is printed.
            objective: The custom objective, a function of this process, for a study with
                ``train.objective``, such as ``"__main__:name"``. It runs here, one trial after another,
                on the first of the devices, and the generators of torch, numpy and random are seeded.
                The trials are leased, recorded and pruned as those of a worker. Ctrl-C lets the epoch end.
            lease_seconds: Seconds without a heartbeat after which another worker may take over a trial;
                None: ``HPO_LEASE_SECONDS``, or 60.
            cache_gb: Gigabytes that decoded image files may take on this machine; None: ``HPO_CACHE_GB``,
                or 50.
            grace_seconds: Seconds that a worker has to save and exit when it is stopped.
            backoff_seconds: Seconds until a worker that died is started again; doubled after each death.

        Raises:
            HpoError: A device does not exist, a worker met an error that no restart mends, or the study is
                complete and none of its trials succeeded.
            KeyboardInterrupt: The user has interrupted it; all trials are saved.

        Examples:
            >>> study.run(devices="cuda:0")
        """
        limits = running.find_limits(lease_seconds, cache_gb)
        if objective is None:
            supervision = Supervision(grace_seconds=grace_seconds, backoff_seconds=backoff_seconds)
            running.run_processes(self.name, self.locations, devices, limits, supervision, progress)
        else:
            running.run_here(self.name, self.locations, devices, limits, objective, progress)

    def pause(self) -> bool:
        """Let the workers of the study save at the end of their epoch and wait, on every host.

        Returns:
            False if the study is complete, so that there is nothing to pause.

        Raises:
            StoreError: The study is gone, or the store refuses the request.

        Examples:
            >>> study.pause()
            True
        """
        return self._give_order(plan.ORDER_PAUSED)

    def resume(self) -> bool:
        """Let a paused or stopped study continue.

        The workers of a paused study continue by themselves. After ``stop`` start new ones with ``run``.

        Returns:
            False if the study is complete, so that there is nothing to resume.

        Raises:
            StoreError: The study is gone, or the store refuses the request.

        Examples:
            >>> study.resume()
            True
        """
        return self._give_order(None)

    def stop(self, trial: int | None = None) -> bool:
        """Stop the study, or one trial of it.

        The workers of the study, on every host, save at the end of their epoch and exit. ``resume`` and
        then ``run`` continue it. One trial ends as pruned, with the last value that it has reported;
        ``retry`` with its number continues it.

        Args:
            trial: The number of a trial; None: the study.

        Returns:
            False if the study is complete, so that there is nothing to stop. Of a trial, whether it has
            ended; False if it is running, and its worker ends it at the end of its epoch.

        Raises:
            StoreError: The study or the trial is gone, the trial has ended or has no setting yet, or the
                store refuses the request.

        Examples:
            >>> study.stop()
            True
            >>> study.stop(trial=3)
            False
        """
        if trial is not None:
            return control.stop_trial(self.storage, self.name, trial)
        return self._give_order(plan.ORDER_STOPPED)

    def _give_order(self, order: str | None) -> bool:
        if status.read_status(self.storage, self.name).state == "complete":
            return False
        control.set_order(self.storage, self.name, order)
        return True

    def retry(self, trial: int | Collection[int] | None = None) -> list[RetriedTrial]:
        """Put failed trials back into the queue, to continue from their checkpoints.

        None is put back if models, a custom objective, or images that are here show that it would fail
        again.

        Args:
            trial: The number of a trial, or several numbers. None: all that failed; one that diverged or
                was stopped by hand is pruned, and only its number retries it.

        Returns:
            A record for each trial that will run again: its number, why it had ended, and the epochs after
            which it continues; empty if none has failed.

        Raises:
            DefinitionError: A model is unknown here, or the custom objective cannot be imported.
            DataError: The images are not those that the study began with, or cannot be used.
            StoreError: One of the numbers is not that of a failed or stopped trial, or the store refuses
                the request.

        Examples:
            >>> study.retry()
            [RetriedTrial(trial=3, reason='out of memory', epochs=2)]
        """
        numbers = [trial] if isinstance(trial, int) else trial
        return retry_trials(self.storage, self.name, numbers, self.locations)

    def enqueue(self, /, **setting: Value) -> int:
        """Add one setting to the queue, to run before the settings that the sampler proposes.

        A setting that a trial has already is not queued again; with another ``seed`` it is another setting.

        Args:
            setting: Values of the parameters by name.

        Returns:
            The number of its trial: of the new one, or of the one that has it.

        Raises:
            DefinitionError: The study cannot run the setting.
            StoreError: The study is gone, or the store refuses the request.

        Examples:
            >>> study.enqueue(lr=0.01, batch_size=32)
            12
        """
        definition = studies.read_definition(self.storage, self.name)
        texts = [f"{key}={dump_value(value, key)}" for key, value in setting.items()]
        point = file.point_from_texts(definition, texts)
        trials = status.read_trials(self.storage, self.name)
        if (known := untried_settings.trial_of_setting(definition, trials, point)) is not None:
            return known.number
        return studies.enqueue_setting(self.storage, self.name, point)

    def finish(
        self,
        top: int = 3,
        seeds: int = 5,
        devices: str = "auto",
        progress: bool = True,
        *,
        objective: "Objective | None" = None,
    ) -> FinishResult:
        """Rerun the best settings with several seeds, and compare them on the test split.

        Each run trains on the training and the validation images, and is scored once, after its last epoch.
        The runs are a study of their own, named ``NAME-finish``. Of a custom objective hpo knows no splits:
        it is called with another ``config.seed`` for each run, and with the setting's best epoch as
        ``config.epochs``; the value after that epoch is the run's result.

        Args:
            top: How many of the best settings to rerun.
            seeds: How many runs of each setting.
            devices: As ``run`` takes them.
            progress: As ``run`` takes it.
            objective: As ``run`` takes it. A function of a script or a notebook (``"__main__:name"``) must
                be given here, too.

        Returns:
            The runs, their comparison, and which setting wins.

        Raises:
            HpoError: No trial is complete, or as ``run`` raises it; nothing is stored if the function is
                missing, or is not the study's.
            KeyboardInterrupt: The user has interrupted it; the same call continues.

        Examples:
            >>> study.finish(top=2, seeds=3).winner.setting.params
            {'lr': 0.0071, 'optimizer': 'adam'}
        """
        plan = running.prepare_finish(self.storage, self.name, top, seeds, objective)
        rerun = open_study(plan.name, self.locations)
        if rerun.status().state != "complete":
            rerun.run(devices, progress, objective=objective)
        return read_result(self.storage, plan)

    def delete(self) -> str:
        """Delete the study and its files, without asking.

        Returns:
            Why files were kept; empty if they were deleted.

        Raises:
            StoreError: A worker has a trial of the study, the study is gone, or the store refuses.
            ArtifactError: The files cannot be deleted.

        Examples:
            >>> hpo.load("an-old-study").delete()
            ''
        """
        self.check_deletable()
        folder, place = self.artifacts_folder(), Artifacts(self.locations.artifacts)
        place.check_access()  # else the study would be deleted and its files kept
        studies.delete_study(self.storage, self.name)
        return folders.delete_unused_folder(self.storage, self.name, folder, place)

    def check_deletable(self) -> None:
        """Raise a StoreError if ``delete`` would: a worker has a trial, the study is gone, no right."""
        self.check_exists()
        study_id = studies.find_study_id(self.storage, self.name)
        # Not the whole status: a study whose definition cannot be read can be deleted, too.
        held = lease_info.read_leases(self.storage, study_id)
        if alive := [worker.owner for worker in held if worker.is_alive]:
            first = (
                "wait until they have exited, then try again"
                if control.read_order(self.storage, study_id) == plan.ORDER_STOPPED
                else f"run 'hpo stop {self.name}' first"
            )
            raise StoreError(f"study '{self.name}' has workers ({', '.join(alive)}); {first}")
        control.check_may_delete(self.storage)


def load(
    name: str,
    store: str | None = None,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Study:
    """Return a study that is in a store.

    Args:
        name: The study's name.
        store: URL of the database; None: ``HPO_STORE``, or ``sqlite:///storage/hpo.db``.
        artifacts: Folder or URL of the study's files; None: ``HPO_ARTIFACTS``, or ``storage/artifacts``.
        data: Folder of the data sets; None: ``HPO_DATA``, or ``storage/data``.

    Raises:
        StoreError: There is no such store or study (the message names those that exist), or another tool
            made it.

    Examples:
        >>> hpo.load("quickstart").status().state
        'complete'
    """
    study = open_study(name, find_locations(store, artifacts, data))
    study.check_exists()
    return study


def open_study(name: str, locations: Locations) -> Study:
    """Return a study of a store that exists. Whether the study does, the first request tells.

    Raises:
        StoreError: The store cannot be opened.
    """
    return Study(name, locations, studies.open_storage(locations.store, create=False))


def list_studies(store: str | None = None) -> list[StudyStatus]:
    """Return the status of each study in a store, oldest first; studies of other tools are left out.

    A study that another version of hpo made comes last. Its state is ``unreadable``, with the reason.

    Args:
        store: URL of the database; None: ``HPO_STORE``, or ``sqlite:///storage/hpo.db``.

    Raises:
        StoreError: There is no such store, or it cannot be read.

    Examples:
        >>> {each.study: each.state for each in hpo.studies()}
        {'quickstart': 'complete', 'mine': 'running'}
    """
    storage = studies.open_storage(find_locations(store).store, create=False)
    return study_records(*read_studies(storage))


def read_studies(storage: Storage) -> tuple[list[ReadStudy], dict[str, str]]:
    """Read the status, the best setting and the problems of each study in a store.

    Returns:
        Those that can be read, oldest first; and why each of the others cannot, by name.

    Raises:
        StoreError: The store cannot be read.
    """
    found, unreadable = [], {}
    for name, read in all_studies.read_each(storage):
        if isinstance(read, DefinitionError):
            unreadable[name] = str(read)
        else:
            found.append(read)
    return found, unreadable


def study_records(found: Iterable[ReadStudy], unreadable: Mapping[str, str]) -> list[StudyStatus]:
    """Return what ``read_studies`` read as records; those that cannot be read come last."""
    readable = [documents.study_status(each.status, each.best, each.problems) for each in found]
    others = [StudyStatus(study=name, state="unreadable", reason=why) for name, why in unreadable.items()]
    return readable + others
