"""The ``[[points]]`` of a study file, checked: settings that are run exactly once each.

A point gives options, and in ``[points.attributes]`` free facts about itself. ``site = "C"`` directly in a
point is an alias of ``attributes.site``.
"""

import re
from collections.abc import Mapping
from typing import Any

from hpo.errors import DefinitionError, quote_value
from hpo.study.checks import Problems, check_keys, dotted_key, require_table
from hpo.study.definition import TRIAL_ATTRIBUTES, Point
from hpo.study.hints import TRAIN_HINTS
from hpo.study.option_checks import is_used, unused_option_message, validate_options
from hpo.study.space import Scalar
from hpo.training import option_tables

ALIASES = ("site",)  # attributes that may stand directly in a point; their values are strings
FACTS = ("attributes", *ALIASES)  # keys of a point that are no options
ATTRIBUTE_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*$"


def parse_points(listed: Any, fixed: Mapping[str, Any], where: str) -> list[Point]:
    """Return the checked points of a study file.

    Args:
        listed: The value of ``points``.
        fixed: The values of all options that points fall back to.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If it is not a list of tables, or tables are wrong; it names them all.
    """
    if not isinstance(listed, list):
        raise DefinitionError(f"{where}: points: want tables under [[points]], found {quote_value(listed)}")
    problems, found = Problems(where), []
    for index, given in enumerate(listed, 1):
        key = f"points[{index}]"
        with problems.collect():
            found.append(parse_point(require_table(given, where, key), fixed, where, key))
    problems.report()
    return found


def parse_point(given: Mapping[str, Any], fixed: Mapping[str, Any], where: str, key: str) -> Point:
    """Return one listed setting, checked by itself; it holds the options that the point gives, no others.

    Args:
        given: The table of the point.
        fixed: The values of all options that the point falls back to.
        where: The study file, as error messages name it.
        key: The name of the point in error messages, as ``points[1]``.

    Raises:
        DefinitionError: If a key or a value is not allowed, an attribute is wrong, or an option that the
            point gives is left unused by another one, be it the point's own or one of ``fixed``: momentum
            where [train] has Adam.
    """
    options = option_tables.option_table(fixed)
    for option in options.study_wide:
        if option in given:
            raise DefinitionError(
                f"{where}: {key}.{option}: points that differ in it cannot be compared; fix it in [train]"
            )
    allowed = options.searchable and (*options.searchable, *FACTS)
    check_keys(given, allowed, where, key, TRAIN_HINTS)
    attributes = _parse_attributes(given, where, key)
    setting = validate_options({k: v for k, v in given.items() if k not in FACTS}, where, key, options)
    whole = {**fixed, **setting}
    for option in setting:
        if not is_used(option, whole, options):
            other, _ = options.used_by[option]
            raise DefinitionError(f"{where}: {key}.{option}: {unused_option_message(option, whole[other])}")
    return Point(setting=setting, attributes=attributes)


def _parse_attributes(given: Mapping[str, Any], where: str, key: str) -> dict[str, Scalar]:
    """Return the attributes of a point, those given by an alias first."""
    found: dict[str, Scalar] = {}
    for alias in (name for name in ALIASES if name in given):
        if not isinstance(given[alias], str):
            raise DefinitionError(
                f"{where}: {key}.{alias}: want a string, found {quote_value(given[alias])}"
            )
        found[alias] = given[alias]
    section = f"{key}.attributes"
    for name, value in require_table(given.get("attributes", {}), where, section).items():
        at = dotted_key(section, name)
        if name in found:
            raise DefinitionError(f"{where}: {at}: {key}.{name} gives it already; keep one")
        _check_attribute(name, value, where, at)
        found[name] = value
    return found


def _check_attribute(name: str, value: Any, where: str, key: str) -> None:
    if not re.fullmatch(ATTRIBUTE_PATTERN, name):
        raise DefinitionError(
            f"{where}: {key}: want a name of letters, digits and '_' that begins with a letter, "
            f"found {quote_value(name)}"
        )
    if name in TRIAL_ATTRIBUTES:
        raise DefinitionError(
            f"{where}: {key}: use another name; hpo itself writes these attributes of trials: "
            f"{', '.join(TRIAL_ATTRIBUTES)}"
        )
    if not isinstance(value, Scalar):
        raise DefinitionError(
            f"{where}: {key}: want a number, a string, true or false, found {quote_value(value)}"
        )
