"""What a custom objective yields after an epoch, checked: a value, a state and other metrics.

The forms are ``(value, state)``, ``(value, state, metrics)`` and ``({name: number, ...}, state)``, where
the study's metric is one of the names. Anything else gets a message that says what is wrong with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hpo.training.events import Epoch
from hpo.training.metric import METRICS

# Other metrics that an epoch's record has a field for. They are stored as those of the built-in training.
KNOWN_METRICS = (*METRICS, "train_loss", "train_accuracy", "lr", "images_per_second")
# Names that no other metric may have, since an epoch is recorded under them.
RESERVED_NAMES = {"epoch", *(field.name for field in fields(Epoch))}.difference(KNOWN_METRICS)
QUOTED_LENGTH = 80  # characters of a value that a message quotes


@dataclass(frozen=True, kw_only=True)
class Yielded:
    """What a custom objective has yielded after an epoch."""

    value: float  # of the study's metric; finite
    state: Any
    known_metrics: Mapping[str, float]  # those with a field in ``Epoch``, by its name
    own_metrics: Mapping[str, float]  # all others


def parse_yielded(yielded: Any, metric: str) -> Yielded:
    """Return what an objective has yielded, as a record.

    Args:
        yielded: What it has yielded.
        metric: The name of the study's metric.

    Raises:
        ValueError: If it has another form, the value is not a finite number, or another metric is not a
            number or has a name that it may not have. The text begins with "yielded".
    """
    value, state, others = _split(yielded, metric)
    if isinstance(value, Mapping):
        value, others = _take_value(value, others, metric)
    number = _as_number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"yielded {_describe(value)} as the {metric}; want a finite number")
    numbers = {name: _check_metric(name, each, metric) for name, each in others.items()}
    return Yielded(
        value=number,
        state=state,
        known_metrics={name: each for name, each in numbers.items() if name in KNOWN_METRICS},
        own_metrics={name: each for name, each in numbers.items() if name not in KNOWN_METRICS},
    )


def epoch_of(state: Any) -> int | None:
    """Return the whole number that a state has under "epoch"; None if it has none."""
    epoch = state.get("epoch") if isinstance(state, dict) else None
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None


def _split(yielded: Any, metric: str) -> tuple[Any, Any, Mapping[Any, Any]]:
    """Return the value, the state and the other metrics, which are not checked yet."""
    wanted = f"want ({metric}, state), or ({metric}, state, metrics)"
    if isinstance(yielded, Mapping):
        raise ValueError(
            f"yielded {_describe(yielded)} without a state; want ({{'{metric}': number, ...}}, state); "
            "the state may be None"
        )
    if not isinstance(yielded, tuple | list):
        raise ValueError(f"yielded {_describe(yielded)}; {wanted}")
    if len(yielded) not in (2, 3):
        parts = f"{len(yielded)} part{'s' * (len(yielded) != 1)}"
        raise ValueError(f"yielded {_describe(yielded)}, a {type(yielded).__name__} of {parts}; {wanted}")
    value, state, *rest = yielded
    others = rest[0] if rest else {}
    if not isinstance(others, Mapping):
        raise ValueError(
            f"yielded {_describe(others)} as its other metrics; want a dict of numbers by name"
        )
    return value, state, others


def _take_value(
    metrics: Mapping[Any, Any], others: Mapping[Any, Any], metric: str
) -> tuple[Any, Mapping[Any, Any]]:
    """Return the study's metric out of a dict of metrics, and all others."""
    if metric not in metrics:
        names = ", ".join(map(str, metrics)) or "none"
        raise ValueError(
            f"yielded metrics without '{metric}', which the study compares; found {names[:QUOTED_LENGTH]}"
        )
    if twice := [name for name in metrics if name in others]:
        raise ValueError(f"yielded the metric {twice[0]!r:.80} twice; want one number for each name")
    return metrics[metric], {name: each for name, each in metrics.items() if name != metric} | dict(others)


def _check_metric(name: Any, value: Any, metric: str) -> float:
    """Return another metric as a number; ValueError if its name or value is not allowed."""
    reserved = RESERVED_NAMES | {metric}
    if not isinstance(name, str) or not name or len(name) > 100 or name in reserved:
        raise ValueError(
            f"yielded another metric called {repr(name)[:QUOTED_LENGTH]}; want a text of 1 to 100 "
            f"characters, none of: {', '.join(sorted(reserved))}"
        )
    number = _as_number(value)
    if number is None:
        raise ValueError(f"yielded {_describe(value)} as the metric '{name}'; want a number")
    return number


def _as_number(value: Any) -> float | None:
    """Return a number, or a tensor or an array without dimensions, as a float; None for anything else."""
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    if is_bool or isinstance(value, str) or not hasattr(value, "__float__") or _shape(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # a whole number beyond 1e308, an object in an array
        return None


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or an array; () if it has no dimensions, or for anything else."""
    shape = getattr(value, "shape", ())
    return tuple(shape) if isinstance(shape, tuple) else ()  # torch.Size is a tuple


def _describe(value: Any) -> str:
    """Return a value as a message quotes it, in one line; with its type where that is what is wrong."""
    if shape := _shape(value):
        return f"a {type(value).__name__} of shape {shape}"
    text = " ".join(repr(value).split())[:QUOTED_LENGTH]
    kinds = {str: "the string", bool: "the bool", dict: "the dict"}
    return f"{kinds[type(value)]} {text}" if type(value) in kinds else text
