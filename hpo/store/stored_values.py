"""What the rows of Optuna's tables hold about a trial: its values, reports and parameters.

Any tool may have written them. What cannot be computed with is left out.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models

from hpo.store import attributes

_NOT_READABLE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
MAX_INTEGER = 2**63 - 1  # what Optuna's samplers and importances can compute with


def parse_value(value: float | None, kind: Any) -> float | None:
    """Return the value of a trial from its row; None if there is none.

    Args:
        value: The number; None if it is not finite.
        kind: Optuna's ``ValueType``, which says what it is; None without a row.
    """
    if kind is None or (value is None and kind == models.TrialValueModel.TrialValueType.FINITE):
        return None
    return models.TrialValueModel.stored_repr_to_value(value, kind)


def parse_reports(found: Iterable[Sequence[Any]]) -> dict[int, float]:
    """Return what a trial has reported, by step, from its rows: step, number and what kind of number."""
    parse = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    return {
        step: value if kind is finite else parse(value, kind)
        for step, value, kind in found
        if value is not None or kind is not finite
    }


def parse_parameters(
    found: Iterable[Sequence[Any]],
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return the parameters of a trial and their distributions, by name, from their rows.

    A parameter is left out if its row has no distribution, or a value that the distribution cannot have.
    One outside of the range stays: Optuna writes it if somebody queues it.

    Args:
        found: The name, the value in Optuna's internal representation, and the distribution as JSON.
    """
    given: dict[str, Any] = {}
    kinds: dict[str, BaseDistribution] = {}
    for name, internal, text in found:
        kind = parse_distribution(text)
        if kind is None:
            continue
        try:
            value = kind.to_external_repr(internal)
            kind.to_internal_repr(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            continue
        given[name], kinds[name] = value, kind
    return given, kinds


@functools.lru_cache(maxsize=1024)
def parse_distribution(text: str) -> BaseDistribution | None:
    """Return the distribution that a parameter's row holds as JSON; None if it holds none."""
    try:
        kind = json_to_distribution(text)
    except (*_NOT_READABLE, RecursionError, UserWarning):
        return None
    limits = dict(kind._asdict())
    choices = limits.pop("choices", ())  # plain Optuna takes infinity and NaN among them, too
    can_be = all(isinstance(each, float) or attributes.is_scalar(each) for each in choices)
    return kind if can_be and all(map(attributes.is_scalar, limits.values())) else None
