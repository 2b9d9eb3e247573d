"""The store as optuna-dashboard reads it: attributes that it could not have written read as absent.

optuna-dashboard takes what it finds in attributes for its own: notes in numbered parts, attached files,
plots, and settings of studies with preferences. One that has another form would break every page of its
study.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from optuna.storages import _CachedStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from hpo.store import attributes, plan

Check = Callable[[Any], bool]
PARTS = re.compile(r"(dashboard:(?:[0-9]+:)?note_str:|dashboard:plot_data:.*:)([0-9]{1,6})", re.DOTALL)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(attributes.is_text, value))


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int | float) and attributes.is_scalar(each) for each in value
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


CHECKS: Mapping[str, Check] = {
    "study:metric_names": _is_list_of_texts,
    "dashboard:objective_names": _is_list_of_texts,
    "dashboard:form_widgets:v2": _is_object,
    "dashboard:objective_form_widgets:v1": lambda value: isinstance(value, list),
    "dashboard:objective_form_widgets": lambda value: (
        isinstance(value, str) and isinstance(attributes.parse_json(value), list)
    ),
    "preference:is_preferential": lambda value: isinstance(value, bool),
    "preference:feedback_component": _is_object,
    "constraints": _is_list_of_numbers,
    "fixed_params": _is_object,
}


def check_attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return system attributes of a study or trial without those that optuna-dashboard cannot show.

    A study of hpo has no preferences, whatever its attributes say.
    """
    found = {key: value for key, value in given.items() if _is_right(key, value)}
    if plan.DEFINITION in found:
        found = {key: value for key, value in found.items() if not key.startswith("preference:")}
    parts = {match[0]: match[1] for key in found if (match := PARTS.fullmatch(key))}
    for prefix in set(parts.values()):
        whole = [key for key, each in parts.items() if each == prefix]
        if {f"{prefix}{index}" for index in range(len(whole))} != set(whole):
            found = {key: value for key, value in found.items() if key not in whole}
    return found


def _is_right(key: str, value: Any) -> bool:
    if key in CHECKS:
        return CHECKS[key](value)
    if key.endswith("note_ver"):
        return attributes.is_count(value)
    if PARTS.fullmatch(key):
        return attributes.is_text(value)
    if attributes.is_attachment_key(key):
        return value == "null" or attributes.parse_attachment(key, value) is not None
    return not key.startswith(("dashboard:note_str:", "dashboard:plot_data:"))


class CheckedStorage(_CachedStorage):
    """Optuna's cache on top of a store, with checked attributes."""

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the system attributes of a study that optuna-dashboard can show."""
        return check_attributes(super().get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies, with the system attributes that optuna-dashboard can show."""
        found = super().get_all_studies()
        for study in found:
            study.system_attrs = check_attributes(study.system_attrs)
            study.user_attrs = attributes.with_printable_texts(study.user_attrs)
        return found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial, with the system attributes that optuna-dashboard can show."""
        return _checked(super().get_trial(trial_id))

    def forget_trials(self) -> None:
        """Read all trials again at the next request."""
        with self._lock:
            self._studies.clear()
            self._trial_id_to_study_id_and_number.clear()
            self._study_id_and_number_to_trial_id.clear()

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        super()._add_trials_to_cache(study_id, [_checked(trial) for trial in trials])


def _checked(trial: FrozenTrial) -> FrozenTrial:
    if trial.state == TrialState.COMPLETE and trial.values is None:
        # Another tool's, or changed by hand; importances would compute with its value.
        trial.state = TrialState.FAIL
    trial.system_attrs = check_attributes(trial.system_attrs)
    trial.user_attrs = attributes.with_printable_texts(trial.user_attrs)
    return trial
