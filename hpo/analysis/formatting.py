"""Short texts for records, settings, durations, splits, and the reason why a trial ended early.

The terminal, the report, the dashboard and a model's card all show these. They stand here so that no
package has to import ``hpo.cli``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from hpo.search import asha
from hpo.search.early_stopping import STOPPED_EARLY, describe_early_stop, has_stopped_early
from hpo.training.metric import COSTS


def format_params(params: Mapping[str, Any]) -> str:
    """Return parameters as short text, such as ``lr 0.001, batch_size 16``; floats with four digits."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )


def short_repr(record: object, *names: str) -> str:
    """Return a record as one line with some of its fields, without those that are None."""
    fields = ((name, getattr(record, name)) for name in names)
    shown = (f"{name}={value!r}" for name, value in fields if value is not None)
    return f"{type(record).__name__}({', '.join(shown)}, ...)"


def format_seconds(seconds: float) -> str:
    """Return a duration as text: seconds below 90 s, minutes below 90 min, else hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_moment(moment: datetime | None) -> str:
    """Return a local moment, as Optuna stores it, to the second; empty for None."""
    return moment.isoformat(" ", timespec="seconds") if moment else ""


def describe_split(selection: str | None) -> str:
    """Return a phrase: on which split a value was measured and, of the test split, what that means.

    Args:
        selection: The study's ``train.selection``: ``valid``, ``test`` or ``final``. None for a custom
            objective, which has no splits that hpo knows of.
    """
    if selection is None:
        return "as the study's own objective measures it"
    if selection == "test":
        return "on the test split, which it was also chosen on: optimistic"
    if selection == "final":
        return "on the test split, once, after the last epoch; the mean over seeds is what to expect"
    return "on the validation split"


def describe_device(hardware: Mapping[str, Any]) -> str:
    """Return the device that a trial ran on, and those that earlier attempts ran on.

    Args:
        hardware: The attribute of a trial that its worker stored.
    """
    earlier = hardware.get("earlier_devices")
    return f"{hardware['device']}{f' (earlier attempts on {earlier})' if earlier else ''}"


def end_reason(trial: FrozenTrial) -> str:
    """Return why a trial was pruned, failed or stopped early, or at which rung it waits; else ""."""
    if has_stopped_early(trial):
        return describe_early_stop(trial.last_step or 0, trial.system_attrs[STOPPED_EARLY])
    if (rung := asha.paused_rung(trial)) is not None:
        why = [made.reason for made in asha.stored_decisions(trial) if made.rung == rung and made.reason]
        return f"waits at the rung of epoch {rung}{f': {why[0]}' if why else ''}"
    failure = trial.user_attrs.get("failure") or {}
    return str(trial.user_attrs.get("pruned") or failure.get("message", "")).partition("\n")[0]


def format_objective(name: str, value: float) -> str:
    """Return the value of an objective as text: metrics with four decimals, costs with four digits.

    Args:
        name: The name of the objective.
        value: Its value.
    """
    if name not in COSTS:
        return f"{value:.4f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def describe_test_split(selection: str | None) -> str:
    """Return a phrase that says if values are of the test split, and if they are optimistic; "" if not."""
    return {"test": " on the test split: optimistic", "final": " on the test split"}.get(
        selection or "", ""
    )
