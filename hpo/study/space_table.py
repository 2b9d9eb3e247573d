"""The ``[space]`` table of a study file: its parameters, checked as ``check`` does."""

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic.fields import FieldInfo

from hpo.errors import DefinitionError, quote_value, suggestion
from hpo.study import checks, space
from hpo.training.config import OptionTable


def parse_space(
    tables: Mapping[str, Any], fixed: Mapping[str, Any], where: str, words: OptionTable
) -> tuple[space.Parameter, ...]:
    """Check ``[space]`` and give its parameters, each after those its condition names."""
    for name in words.study_wide:
        if name in tables:
            raise DefinitionError(
                f"{where}: space.{name}: cannot be searched, since trials that differ in it cannot be "
                "compared; fix it in [train]"
            )
    checks.check_keys(tables, words.searchable, where, "space")
    found = [_parse_parameter(name, given, where, words) for name, given in tables.items()]
    searched = {parameter.name: parameter for parameter in found}
    for parameter in found:
        _check_condition(parameter, searched, fixed, where)
        _check_used(parameter, searched, fixed, where, words)
    try:
        return space.sort_by_condition(_add_implied_condition(parameter, words) for parameter in found)
    except ValueError as error:
        raise DefinitionError(
            f"{where}: space: conditions go round in a circle: {error}; take a 'when' away"
        ) from error


def _add_implied_condition(parameter: space.Parameter, words: OptionTable) -> space.Parameter:
    """Give a parameter with the condition that it is used at all, if its file names none."""
    if parameter.name not in words.used_by:
        return parameter
    other, users = words.used_by[parameter.name]
    values = parameter.values
    return parameter.model_copy(
        update={"values": values.model_copy(update={"when": {other: users, **values.when}})}
    )


def _parse_parameter(name: str, given: Any, where: str, words: OptionTable) -> space.Parameter:
    key = checks.dotted_key("space", name)
    ranges = name not in words.config_class.model_fields or _is_numeric(
        words.config_class.model_fields[name]
    )
    if isinstance(given, list):
        given = {"choices": given}
    if isinstance(given, Mapping) and "choices" in given:
        values = _parse_choices(name, given, where, key, words)
        return space.Parameter(name=name, kind="choice", values=values)
    if isinstance(given, Mapping) and ranges:
        found = _parse_range(name, given, where, key, words)
        return space.Parameter(name=name, kind=space.infer_kind((found.low, found.high)), values=found)
    forms = "a list of values or { low = ..., high = ... }" if ranges else "a list of values"
    how = f"; to fix it, put it into [train], or --set train.{name}=..."
    fix = "" if isinstance(given, Mapping) else how
    raise DefinitionError(f"{where}: {key}: want {forms}, found {quote_value(given)}{fix}")


def _is_numeric(field: FieldInfo) -> bool:
    """Tell whether an option's values are numbers, of which there are ranges."""
    return checks.field_schema(field)["type"] in ("integer", "number")


def _parse_choices(
    name: str, given: Mapping[str, Any], where: str, key: str, words: OptionTable
) -> space.Choices:
    checks.check_keys(given, space.Choices.model_fields, where, key)
    listed = given["choices"]
    if not isinstance(listed, list) or not listed:
        raise DefinitionError(
            f"{where}: {key}: want a list of one value or more, found {quote_value(listed)}"
        )
    places = [f"{key}[{index}]" for index in range(1, len(listed) + 1)]
    values = [
        checks.validate_option(name, each, where, at, words)
        for each, at in zip(listed, places, strict=True)
    ]
    for each, count in Counter(values).items():
        if count > 1:
            raise DefinitionError(f"{where}: {key}: {quote_value(each)} is listed twice; list it once")
    return space.Choices(choices=tuple(values), when=_parse_when(given, where, key, words))


def _parse_range(
    name: str, given: Mapping[str, Any], where: str, key: str, words: OptionTable
) -> space.Range:
    checks.check_keys(given, space.Range.model_fields, where, key)
    for end in ("low", "high"):
        if end not in given:
            raise DefinitionError(
                f"{where}: {key}: {end} is missing; want {{ low = ..., high = ... }}, found {quote_value(given)}"
            )
    low, high = (
        checks.validate_option(name, given[end], where, f"{key}.{end}", words) for end in ("low", "high")
    )
    if space.infer_kind((low, high)) == "choice":
        raise DefinitionError(f"{where}: {key}: want numbers for low and high, found {quote_value(given)}")
    log, step = given.get("log", False), given.get("step")
    if low > high:
        raise DefinitionError(f"{where}: {key}: low {low} is above high {high}; swap them")
    if not isinstance(log, bool):
        raise DefinitionError(f"{where}: {key}.log: want true or false, found {quote_value(log)}")
    if log and low <= 0:
        raise DefinitionError(f"{where}: {key}: log wants low above 0, found {low}")
    if log and step is not None:
        raise DefinitionError(f"{where}: {key}: log and step exclude each other; keep one")
    if step is not None:
        _check_step(step, low, high, where, f"{key}.step")
    return space.Range(low=low, high=high, log=log, step=step, when=_parse_when(given, where, key, words))


def _check_step(step: Any, low: float, high: float, where: str, key: str) -> None:
    whole = isinstance(low, int) and isinstance(high, int)
    if isinstance(step, bool) or not isinstance(step, int if whole else int | float) or step <= 0:
        kind = "a whole number" if whole else "a number"
        raise DefinitionError(f"{where}: {key}: want {kind}, above 0, found {quote_value(step)}")
    if (high - low) / step > 1e9:
        raise DefinitionError(f"{where}: {key}: {step} is too small for {low} to {high}; leave it out")
    start, end, each = (Decimal(str(number)) for number in (low, high, step))  # as Optuna counts
    if left := (end - start) % each:
        reached = type(low)(end - left)
        raise DefinitionError(
            f"{where}: {key}: steps of {step} from {low} do not meet high {high}; "
            f"{reached} would be the last value, so take that for high"
        )


def _parse_when(
    given: Mapping[str, Any], where: str, key: str, words: OptionTable
) -> dict[str, tuple[Any, ...]]:
    """Check the values in a ``when``, and give them as lists."""
    when = checks.require_table(given.get("when", {}), where, f"{key}.when")
    checks.check_keys(when, words.searchable, where, f"{key}.when")
    found = {}
    for other, wanted in when.items():
        at, values = f"{key}.when.{other}", wanted if isinstance(wanted, list) else [wanted]
        if not values:
            raise DefinitionError(f"{where}: {at}: want a value or more, found []")
        found[other] = tuple(checks.validate_option(other, each, where, at, words) for each in values)
    return found


def _check_condition(
    parameter: space.Parameter,
    searched: Mapping[str, space.Parameter],
    fixed: Mapping[str, Any],
    where: str,
) -> None:
    """Check that the options in a ``when`` can have the values that it names."""
    for other, wanted in parameter.values.when.items():
        key, parent = f"space.{parameter.name}.when.{other}", searched.get(other)
        if parent is None and other not in fixed:
            raise DefinitionError(
                f"{where}: {key}: {other} is neither fixed nor searched"
                f"{suggestion(other, searched) or ';'} searched: {', '.join(searched)}"
            )
        if parent is None:
            value = fixed[other]
            if value not in wanted:
                raise DefinitionError(
                    f"{where}: {key}: {other} is not searched, it is always {quote_value(value)}; "
                    f"name that, search {other}, or leave {parameter.name} out"
                )
        elif isinstance(parent.values, space.Range):
            raise DefinitionError(f"{where}: {key}: {other} is a range; want an option with a list")
        for each in wanted:
            if parent is not None and not parent.contains(each):
                raise DefinitionError(
                    f"{where}: {key}: {other} is never {quote_value(each)}; it is one of "
                    f"{', '.join(map(quote_value, parent.choices_or_bounds()))}"
                )


def _check_used(
    parameter: space.Parameter,
    searched: Mapping[str, space.Parameter],
    fixed: Mapping[str, Any],
    where: str,
    words: OptionTable,
) -> None:
    """Check that an option which only some values of another one use is searched under those."""
    if parameter.name not in words.used_by:
        return
    other, users = words.used_by[parameter.name]
    key = f"space.{parameter.name}"
    possible = searched[other].choices_or_bounds() if other in searched else (fixed[other],)
    if other in parameter.values.when:
        key, wanted = f"{key}.when.{other}", parameter.values.when[other]
        bad = [each for each in wanted if each not in users]
    else:
        bad = [] if set(possible) & set(users) else list(possible)
    if bad:
        raise DefinitionError(f"{where}: {key}: {checks.unused_option_message(parameter.name, *bad)}")
