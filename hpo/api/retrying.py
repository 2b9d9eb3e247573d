"""Putting trials back into the queue, unless something that can be checked here would end them again."""

from collections.abc import Collection
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpo import logs
from hpo.api import images
from hpo.api.locations import Locations
from hpo.artifacts.folders import Artifacts
from hpo.artifacts.names import epoch_of_checkpoint
from hpo.errors import DataError, DefinitionError
from hpo.store import control, failures, status, studies, study_images
from hpo.store.storage import Storage
from hpo.study.consistency import check_models
from hpo.study.definition import Definition
from hpo.training.config import Config, has_own_images


@dataclass(frozen=True, kw_only=True)
class RetriedTrial:
    """A trial that was put back into the queue.

    Attributes:
        trial: Its number.
        reason: Why it had failed, diverged or was stopped; "" if that is not recorded.
        epochs: The epochs after which it continues; 0 if it begins anew.
    """

    trial: int
    reason: str
    epochs: int


def retry_trials(
    storage: Storage, name: str, numbers: Collection[int] | None, locations: Locations
) -> list[RetriedTrial]:
    """Put trials back as ``control.retry_trials`` does, after a look for what would end them again.

    Models and a custom objective are checked as when the study was created, and images that are here are
    compared with those that it began with. Images that are not here may be where its workers run: a line on
    stderr says so.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        numbers: The trials' numbers; None for all that failed.
        locations: Where its files and its data are.

    Raises:
        DefinitionError: A model is unknown here, or the custom objective cannot be imported.
        DataError: The images cannot be used, or are not those that the study began with.
        StoreError: As ``control.retry_trials`` does.
    """
    before = {trial.number: trial for trial in status.read_trials(storage, name)}
    definition = studies.read_definition(storage, name)
    try:
        _check_causes(storage, definition, locations)
    except (DefinitionError, DataError) as error:
        raise type(error)(f"study '{name}': nothing is put back, it would fail again: {error}") from error
    return [_retried(before[number]) for number in control.retry_trials(storage, name, numbers)]


def _check_causes(storage: Storage, definition: Definition, locations: Locations) -> None:
    """Raise an error if the study cannot run here for a reason that its trials have in common."""
    if not str(definition.train.get("objective", "")).startswith("__main__:"):  # only its script has that
        check_models(definition, f"study '{definition.name}'")
    used = images.list_images(definition, locations.data, needed_here=False)
    if used is not None:
        known = study_images.read_images(storage, definition).fingerprint
        if known not in (None, used.fingerprint):
            raise study_images.changed_error(storage, Artifacts(locations.artifacts), definition, used)
        return
    settings = definition.trial_config({})
    if isinstance(settings, Config) and has_own_images(settings.dataset):
        logs.tell(f"{settings.dataset}: not on this machine, so its images were not checked")


def _retried(trial: FrozenTrial) -> RetriedTrial:
    name = trial.user_attrs.get("checkpoint")
    return RetriedTrial(
        trial=trial.number,
        reason=failures.describe_end(trial),
        epochs=0 if name is None else epoch_of_checkpoint(name),
    )
