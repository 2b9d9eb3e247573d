"""The ``[space]`` table of a study file: its parameters, parsed and checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hpo.errors import DefinitionError, quote_value, suggestion
from hpo.study.checks import (
    Problems,
    check_keys,
    dotted_key,
    field_schema,
    is_valid,
    require_table,
    validate_field,
)
from hpo.study.hints import TRAIN_HINTS
from hpo.study.option_checks import unused_option_message, validate_option
from hpo.study.space import (
    Choices,
    FloatStep,
    IntStep,
    LogRange,
    Parameter,
    Range,
    infer_kind,
    sort_by_condition,
)
from hpo.training.option_tables import OptionTable


def parse_space(tables: Mapping[str, Any], where: str, options: OptionTable) -> list[Parameter]:
    """Return the parameters of ``[space]``, each checked by itself.

    Args:
        tables: The table as ``tomllib`` reads it.
        where: The study file, as error messages name it.
        options: The options that the study may use.

    Raises:
        DefinitionError: If options cannot be searched, or their values are wrong; it names them all.
    """
    problems, found = Problems(where), []
    with problems.collect():
        others = (name for name in tables if name not in options.study_wide)
        check_keys(others, options.searchable, where, "space", TRAIN_HINTS)
    for name, given in tables.items():
        with problems.collect():
            if name in options.study_wide:
                raise DefinitionError(
                    f"{where}: space.{name}: cannot be searched, since trials that differ in it cannot be "
                    "compared; fix it in [train]"
                )
            if options.searchable is None or name in options.searchable:
                found.append(_parse_parameter(name, given, where, options))
    problems.report()
    return found


def check_space(
    found: Sequence[Parameter], fixed: Mapping[str, Any], where: str, options: OptionTable
) -> tuple[Parameter, ...]:
    """Return the parameters of ``[space]``, each after those that its condition names.

    A parameter that only some values of another option use gets that as its condition, unless its own
    condition names the other option.

    Args:
        found: The parameters, each checked by itself.
        fixed: The values of the options that are not searched, defaults included.
        where: The study file, as error messages name it.
        options: The options that the study may use.

    Raises:
        DefinitionError: If conditions are wrong; it names them all.
    """
    searched = {parameter.name: parameter for parameter in found}
    problems = Problems(where)
    for parameter in found:
        with problems.collect():
            _check_condition(parameter, searched, fixed, where)
            _check_used(parameter, searched, fixed, where, options)
    problems.report()
    try:
        return sort_by_condition(_add_implied_condition(parameter, options) for parameter in found)
    except ValueError as error:
        raise DefinitionError(f"{where}: space: circular conditions: {error}; remove a 'when'") from error


def _add_implied_condition(parameter: Parameter, options: OptionTable) -> Parameter:
    """Return a parameter with the condition that training uses it, unless its file gives one."""
    if parameter.name not in options.used_by:
        return parameter
    other, users = options.used_by[parameter.name]
    values = parameter.values
    return parameter.model_copy(
        update={"values": values.model_copy(update={"when": {other: users, **values.when}})}
    )


def _parse_parameter(name: str, given: Any, where: str, options: OptionTable) -> Parameter:
    key = dotted_key("space", name)
    ranges = has_ranges(name, options)
    if isinstance(given, list):
        given = {"choices": given}
    if isinstance(given, Mapping) and "choices" in given:
        choices = _parse_choices(name, given, where, key, options)
        return Parameter(name=name, kind="choice", values=choices)
    if isinstance(given, Mapping) and ranges:
        found = _parse_range(name, given, where, key, options)
        return Parameter(name=name, kind=infer_kind((found.low, found.high)), values=found)
    forms = "a list of values or { low = ..., high = ... }" if ranges else "a list of values"
    how = f"; to fix it, put it into [train], or --set train.{name}=..."
    fix = "" if isinstance(given, Mapping) else how
    raise DefinitionError(f"{where}: {key}: want {forms}, found {quote_value(given)}{fix}")


def has_ranges(name: str, options: OptionTable) -> bool:
    """Return whether an option can be searched over a range: its values are numbers, or are not known."""
    field = options.config_class.model_fields.get(name)
    return field is None or field_schema(field)["type"] in ("integer", "number")


def _parse_choices(
    name: str, given: Mapping[str, Any], where: str, key: str, options: OptionTable
) -> Choices:
    check_keys(given, Choices.model_fields, where, key)
    listed = given["choices"]
    if not isinstance(listed, list) or not listed:
        raise DefinitionError(
            f"{where}: {key}: want a list of one value or more, found {quote_value(listed)}"
        )
    places = [f"{key}[{index}]" for index in range(1, len(listed) + 1)]
    values = [
        validate_option(name, each, where, at, options) for each, at in zip(listed, places, strict=True)
    ]
    for each, count in Counter(values).items():
        if count > 1:
            raise DefinitionError(f"{where}: {key}: {quote_value(each)} is listed twice; list it once")
    return Choices(choices=tuple(values), when=_parse_when(given, where, key, options))


def _parse_range(name: str, given: Mapping[str, Any], where: str, key: str, options: OptionTable) -> Range:
    check_keys(given, Range.model_fields, where, key)
    for end in ("low", "high"):
        if end not in given:
            raise DefinitionError(
                f"{where}: {key}: {end} is missing; want {{ low = ..., high = ... }}, "
                f"found {quote_value(given)}"
            )
    low, high = (
        validate_option(name, given[end], where, f"{key}.{end}", options) for end in ("low", "high")
    )
    if infer_kind((low, high)) == "choice":
        raise DefinitionError(f"{where}: {key}: want numbers for low and high, found {quote_value(given)}")
    if low > high:
        raise DefinitionError(f"{where}: {key}: low {low} is above high {high}; swap them")
    log = validate_field(Range, "log", given.get("log", False), where, f"{key}.log")
    if log and not is_valid(LogRange, "low", low):
        raise DefinitionError(f"{where}: {key}: log wants low above 0, found {low}")
    step = given.get("step")
    if log and step is not None:
        raise DefinitionError(f"{where}: {key}: log and step exclude each other; keep one")
    if step is not None:
        _check_step(step, low, high, where, f"{key}.step")
    when = _parse_when(given, where, key, options)
    return Range(low=low, high=high, log=log, step=step, when=when)


def _check_step(step: Any, low: float, high: float, where: str, key: str) -> None:
    validate_field(IntStep if infer_kind((low, high)) == "int" else FloatStep, "step", step, where, key)
    if (high - low) / step > 1e9:
        raise DefinitionError(f"{where}: {key}: {step} is too small for {low} to {high}; leave it out")
    start, end, each = (Decimal(str(number)) for number in (low, high, step))  # as Optuna counts
    if left := (end - start) % each:
        reached = type(low)(end - left)
        raise DefinitionError(
            f"{where}: {key}: steps of {step} from {low} do not reach high {high} exactly; "
            f"the last value would be {reached}, so use that as high"
        )


def _parse_when(
    given: Mapping[str, Any], where: str, key: str, options: OptionTable
) -> dict[str, tuple[Any, ...]]:
    """Return the ``when`` of a parameter with its values as tuples, each value checked by itself."""
    when = require_table(given.get("when", {}), where, f"{key}.when")
    check_keys(when, options.searchable, where, f"{key}.when", TRAIN_HINTS)
    found = {}
    for other, wanted in when.items():
        at, values = f"{key}.when.{other}", wanted if isinstance(wanted, list) else [wanted]
        if not values:
            raise DefinitionError(f"{where}: {at}: want one value or more, found []")
        found[other] = tuple(validate_option(other, each, where, at, options) for each in values)
    return found


def _check_condition(
    parameter: Parameter,
    searched: Mapping[str, Parameter],
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
        elif isinstance(parent.values, Range):
            raise DefinitionError(f"{where}: {key}: {other} is a range; want an option with a list")
        for each in wanted:
            if parent is not None and not parent.contains(each):
                raise DefinitionError(
                    f"{where}: {key}: {other} is never {quote_value(each)}; it is one of "
                    f"{', '.join(map(quote_value, parent.choices_or_bounds()))}"
                )


def _check_used(
    parameter: Parameter,
    searched: Mapping[str, Parameter],
    fixed: Mapping[str, Any],
    where: str,
    options: OptionTable,
) -> None:
    """Check that an option which only some values of another one use is searched under those."""
    if parameter.name not in options.used_by:
        return
    other, users = options.used_by[parameter.name]
    key = f"space.{parameter.name}"
    if other in parameter.values.when:
        key, wanted = f"{key}.when.{other}", parameter.values.when[other]
        bad = [each for each in wanted if each not in users]
    else:
        possible = searched[other].choices_or_bounds() if other in searched else (fixed[other],)
        bad = [] if set(possible) & set(users) else list(possible)
    if bad:
        raise DefinitionError(f"{where}: {key}: {unused_option_message(parameter.name, *bad)}")
