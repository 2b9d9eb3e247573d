"""Warm start: a new study's sampler learns from trials of earlier studies (``[search] start_from``).

If all options that decide whether accuracies can be compared are equal, and so are the images of a folder,
the sampler sees the values of the earlier study's trials. Folders are compared by their fingerprints
(``study_images``), or by their paths if one of the studies has none. The sampler sees the trials whose
settings the new study could try itself: what the new study fixes has the same value, and what it searches
lies within its ranges, whether the earlier study searched it, listed it, or fixed it.

Of any other study, such as one of another data set, or of fewer epochs, the sampler ``freeze_thaw`` learns
the order of the settings (``search.rank_prior``). What the new study fixes may then have had another value.

A worker reads the trials once. They are copies with the new study's distributions. All have the number -1,
which is below every real trial's; Optuna's intersection search space still counts trials of that number (it
does not count those of -2 and below).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import DefinitionError, HpoError, StoreError, StoreUnavailable, quote_value
from hpo.search import replicates, samplers
from hpo.search.rank_prior import learn_priors
from hpo.store import plan, status, studies, study_images
from hpo.store.history import History
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.option_checks import is_used
from hpo.training import libraries
from hpo.training.config import SPLIT_OPTIONS, settings_of

ORDER_SAMPLERS = ("freeze_thaw",)  # that learn from the order of another study's trials
MAX_REASONS = 3  # how many reasons for leaving out trials a message names

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a sampler learns from one earlier study.

    Attributes:
        study: The earlier study's name.
        definition: The earlier study.
        trials: Copies of its usable trials, one for each setting.
        left_out: Number of other complete or pruned trials, by the reason why they are left out.
        difference: Why only the order of the trials counts; None if their values do.
    """

    study: str
    definition: Definition
    trials: tuple[FrozenTrial, ...]
    left_out: Mapping[str, int]
    difference: str | None = None

    def __str__(self) -> str:
        count = len(self.trials)
        text = f"{count} trial{'s' * (count != 1)} of study '{self.study}'"
        if self.difference is None:
            text = f"the sampler starts from {text}"
        else:
            text = f"the sampler starts from the order of {text}, not from their values: {self.difference}"
        return f"{text}; left out: {self.reasons}" if self.left_out else text

    @property
    def reasons(self) -> str:
        """The ``MAX_REASONS`` most frequent reasons with their numbers of trials, then the others' sum."""
        ranked = Counter(self.left_out).most_common()
        more = [f"{sum(count for _, count in ranked[MAX_REASONS:])} for other reasons"]
        named = [f"{count} ({reason})" for reason, count in ranked[:MAX_REASONS]]
        return ", ".join(named + (more if len(ranked) > MAX_REASONS else []))


def find_warm_starts(
    storage: Storage, definition: Definition, images: str | None = None
) -> list[WarmStart]:
    """Check the studies that a new study starts from, and read what its sampler learns from them.

    Args:
        storage: The storage that the earlier studies are in.
        definition: The new study's definition; it need not be stored yet.
        images: The fingerprint of the new study's images; None if it is not known.

    Returns:
        One record for each study of ``[search] start_from``, even if it is named twice.

    Raises:
        DefinitionError: An earlier study does not exist, was made by another tool or another version of
            hpo, is still running, has no usable trial, or is not comparable and the sampler cannot learn
            from the order of trials.
        StoreUnavailable: The database is unavailable.
        StoreError: The database refuses the request, or an earlier study was deleted meanwhile.
    """
    names = dict.fromkeys(definition.search.start_from)
    return [_check_and_read(storage, definition, name, images) for name in names]


def read_warm_starts(storage: Storage, definition: Definition) -> list[WarmStart]:
    """Return what a study's sampler learns from earlier studies.

    A study that cannot be read is left out, for example because it was deleted since the check; the log
    names it. Whether it is still running is not checked again.

    Args:
        storage: The storage that all the studies are in.
        definition: The definition of the study whose sampler it is.

    Raises:
        StoreUnavailable: The database stays unavailable. Without the trials it would be another search.
    """
    found: list[WarmStart] = []
    images = (
        study_images.read_images(storage, definition).fingerprint if definition.search.start_from else None
    )
    for name in dict.fromkeys(definition.search.start_from):
        try:
            old = studies.read_definition(storage, name)
            found.append(_read_warm_start(storage, definition, name, old, images))
        except StoreUnavailable:
            raise
        except HpoError as error:
            log.warning("search.start_from: %s; the sampler continues without it", error)
    return found


def teach(history: History, definition: Definition) -> None:
    """Give a worker's history what the sampler learns from earlier studies: trials, or their order.

    Args:
        history: The history of the study whose sampler it is.
        definition: The study.

    Raises:
        StoreUnavailable: As ``read_warm_starts``.
    """
    found = read_warm_starts(history.storage, definition)
    comparable = (trial for each in found if each.difference is None for trial in each.trials)
    history.warm_start_trials = samplers.select_trials(list(comparable), definition.metric)
    others = ((each.definition, each.trials) for each in found if each.difference is not None)
    history.priors = learn_priors(definition, others)


def _check_and_read(storage: Storage, definition: Definition, name: str, images: str | None) -> WarmStart:
    """Read what a sampler learns from one study; raise DefinitionError unless the study is usable."""
    option = f"study '{definition.name}': search.start_from"
    where = f"{option}: study '{name}'"
    try:
        old = studies.read_definition(storage, name)
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise DefinitionError(f"{option}: {error}") from error
    if status.read_status(storage, name).state == "running":
        raise DefinitionError(f"{where} is running; wait until it is complete, or 'hpo stop {name}'")
    found = _read_warm_start(storage, definition, name, old, images)
    if found.difference is not None and definition.search.sampler.name not in ORDER_SAMPLERS:
        raise DefinitionError(
            f"{where} is not comparable ({found.difference}); make them the same, leave it out, or use the "
            f"sampler {' or '.join(ORDER_SAMPLERS)}, which learns from the order of its trials"
        )
    if not found.trials:
        why = f"this study could try the setting of none of its trials: {found.reasons}"
        raise DefinitionError(f"{where}: {why if found.left_out else 'it has no trial that ended'}")
    return found


def _chosen_precision(storage: Storage, name: str) -> str | None:
    """Return the precision that the first worker of a study with ``auto`` chose; None if none has yet."""
    attributes = storage.get_study_system_attrs(studies.find_study_id(storage, name))
    return attributes.get(plan.PRECISION)


def _compare_images(storage: Storage, new: Definition, old: Definition, images: str | None) -> bool | None:
    """Return whether two studies have the same images; None where only the data set's name tells.

    That is so if one of them has no fingerprint, or they use other parts of what may be the same folder.
    """
    before = study_images.read_images(storage, old).fingerprint
    if images is None or before is None:
        return None
    if any(old.train.get(option) != new.train.get(option) for option in SPLIT_OPTIONS):
        return None
    return before == images


def _differences(
    new: Definition, old: Definition, precision: str | None, same_images: bool | None
) -> Iterator[str]:
    """Yield what makes the accuracies of two studies not comparable."""
    if same_images is False and old.train["dataset"] == new.train["dataset"]:
        yield f"{quote_value(new.train['dataset'])} has other images now than it had there"
    if old.metric != new.metric:
        there, here = (f"{each.metric.name} ({each.metric.direction}d)" for each in (old, new))
        yield f"the metric is {there} there and {here} here"
    for option in dict.fromkeys(("objective", *new.option_table.study_wide)):
        if option in ("metric", *new.idle_options) or (option == "dataset" and same_images):
            continue
        before, now = old.train.get(option), new.train.get(option)
        is_chosen = option == "precision" and precision == now
        if before != now and not is_chosen:
            yield f"{option} is {quote_value(before)} there and {quote_value(now)} here"


def _read_warm_start(
    storage: Storage, new: Definition, name: str, old: Definition, images: str | None
) -> WarmStart:
    """Read an earlier study's trials: for their values if these can be compared, else for their order."""
    there = status.read_trials(storage, name)
    ended = [
        trial
        for trial in replicates.merge_replicates(there, replicates.first_trial_numbers(there))
        # Without a value a complete one is another tool's; a pruned one diverged in its first epoch.
        if trial.state == TrialState.PRUNED
        or (trial.state == TrialState.COMPLETE and trial.value is not None)
    ]
    same_images = _compare_images(storage, new, old, images)
    differences = list(_differences(new, old, _chosen_precision(storage, name), same_images))
    if differences:
        return _select_trials(ended, new, name, old, difference="; ".join(differences))
    if same_images:  # under whatever path
        old = old.model_copy(update={"train": {**old.train, "dataset": new.train["dataset"]}})
    found = _select_trials(ended, new, name, old)
    if found.trials or not ended or new.search.sampler.name not in ORDER_SAMPLERS:
        return found
    return _select_trials(ended, new, name, old, difference=found.reasons)


def _select_trials(
    ended: Sequence[FrozenTrial], new: Definition, name: str, old: Definition, difference: str | None = None
) -> WarmStart:
    """Select the trials of an earlier study whose settings the new one could try itself.

    Args:
        ended: The trials of the earlier study that ended.
        new: The new study.
        name: The earlier study's name.
        old: The earlier study.
        difference: Why only the order counts. Then it does not matter what the new study fixes or lists.
    """
    listed = [new.complete_hyperparameters(point) for point in new.listed_points]
    trials: list[FrozenTrial] = []
    left_out: Counter[str] = Counter()
    for trial in ended:
        setting = settings_of(old.trial_config(trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {})))
        active = {p.name: p for p in new.space if space.is_active(p, setting)}
        why = _why_outside(setting, active)
        if difference is None:
            why = _why_different(new, setting) or why
        params = {parameter: setting[parameter] for parameter in active if why is None}
        if why is None and difference is None and params in listed:
            why = "listed here too"
        if why is not None:
            left_out[why] += 1
            continue
        trials.append(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value,
                params=params,
                distributions={name: each.distribution() for name, each in active.items()},
                intermediate_values=trial.intermediate_values,
            )
        )
    return WarmStart(
        study=name, definition=old, trials=tuple(trials), left_out=left_out, difference=difference
    )


def _why_outside(setting: Mapping[str, Any], active: Mapping[str, space.Parameter]) -> str | None:
    """Return the reason why a setting is not within the parameters that are searched; None if it is."""
    for name, parameter in active.items():
        if name not in setting:
            return f"without {name}"
        if not parameter.contains(setting[name]):
            return f"{name} outside of {parameter.values}"
    return None


def _why_different(new: Definition, setting: Mapping[str, Any]) -> str | None:
    """Return what a setting has otherwise than a study fixes it; None if nothing."""
    searched = {parameter.name for parameter in new.space}
    for name, value in new.train.items():
        # One of the two precisions may be what "auto" chose; a seed is not part of a setting.
        ignored = (*searched, "seed", "precision", *new.idle_options)
        if name in ignored or not is_used(name, setting, new.option_table):
            continue
        if setting.get(name) == value:
            continue
        # Older studies have None, the model's own, which is 0 for most models.
        model = str(setting.get("model"))
        if name == "drop_path" and not libraries.library_of(model).has_stochastic_depth(model):
            continue
        return f"{name} {quote_value(setting.get(name))}, where this study has {quote_value(value)}"
    unknown = setting.keys() - new.train.keys() - searched
    return f"with {min(unknown)}, which this study does not know" if unknown else None
