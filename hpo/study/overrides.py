"""``--set KEY=VALUE``: changes to a study document before it is checked."""

import contextlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpo.errors import QUOTED_LENGTH, DefinitionError, quote_value, shorten
from hpo.study.aliases import rename_path
from hpo.study.checks import check_storable, inner_model
from hpo.study.option_checks import is_used
from hpo.study.search_options import Search
from hpo.training import option_tables
from hpo.training.option_tables import OptionTable

SECTIONS = ("train", "space", "search")  # tables of a study file that --set can change
# Tables in [search] that may be given by their name alone: sampler = "tpe" is sampler = { name = "tpe" }.
NAMED_TABLES = tuple(name for name, field in Search.model_fields.items() if inner_model(field))
BOOLEANS = {"True": True, "False": False}  # Python's spelling, which TOML does not have
SHORT_FLOAT = re.compile(r"[+-]?((0|[1-9]\d*)\.\d*|\.\d+)([eE][+-]?\d+)?")  # such as .5, nor this


def parse_value(text: str) -> Any:
    """Return the value that a text is in TOML; other text is a string, without the spaces around it.

    ``True``, ``False``, ``.5`` and ``5.`` are read as in Python; in quotes they are strings.
    """
    with contextlib.suppress(ValueError, RecursionError):
        found = tomllib.loads(f"x = {text}")
        if len(found) == 1:  # else a second line gives other keys
            return found["x"]
    text = text.strip()
    return float(text) if SHORT_FLOAT.fullmatch(text) else BOOLEANS.get(text, text)


def expand_names(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``[search]`` with ``sampler = "tpe"`` as ``sampler = { name = "tpe" }``, and so the pruner."""
    return {
        key: {"name": value} if key in NAMED_TABLES and isinstance(value, str) else value
        for key, value in search.items()
    }


def apply_set(document: dict[str, Any], text: str) -> str:
    """Apply one ``--set KEY=VALUE`` to a document, in place.

    ``train.X`` fixes X everywhere: it also removes X, and what the new value makes unreachable, from
    ``[space]`` and from every point. ``space.X`` removes X from ``[train]``. Missing tables are created.

    Args:
        document: The study file as ``tomllib`` reads it, without aliases; nothing in it has been checked.
        text: The text after ``--set``.

    Returns:
        The full name of what was set, without aliases, such as ``train.epochs``.

    Raises:
        DefinitionError: If the text is not of this form, it names a key within something that is no table,
            no store can hold the value, or an option of a custom objective would get a value of another
            type.
    """
    key, equals, raw = text.partition("=")
    section, *path = key.strip().split(".")
    if not equals or section not in SECTIONS or not path or not all(path):
        raise DefinitionError(
            f"--set {shorten(text, QUOTED_LENGTH)}: want KEY=VALUE with a KEY such as "
            "train.epochs, space.lr or search.trials"
        )
    value = parse_value(raw)
    check_storable(value, "--set", key.strip())
    train = document.get("train")
    is_custom = isinstance(train, dict) and "objective" in train
    path, value = rename_path(section, path, value, "--set", is_custom=is_custom)
    if section == "train" and len(path) == 1:
        _check_type(document, path[0], value, text)
    table = _table_at(document, (section, *path[:-1]), text)
    table[path[-1]] = value
    if section == "train":
        _fix_option(document, path[0], value)
    elif section == "space":
        _remove_keys(document.get("train"), path[0])
    return ".".join((section, *path))


def _check_type(document: Mapping[str, Any], option: str, value: Any, text: str) -> None:
    """Refuse a value of another type than the file gives an option of a custom objective.

    Only the file tells the types of such options: the text ``no`` would be true where the file has false.
    """
    train = document.get("train")
    if not isinstance(train, dict) or "objective" not in train:
        return
    given = list(_values_of(document, option))
    kinds = {kind for each in given if (kind := _kind_of(each))}
    if kinds and _kind_of(value) not in kinds:
        raise DefinitionError(
            f"--set {text}: want {' or '.join(sorted(kinds))}, as the study file has "
            f"({quote_value(given[0])}), found {quote_value(value)}"
        )


def _values_of(document: Mapping[str, Any], option: str) -> Iterator[Any]:
    """Yield the values that a document gives to an option, in [train], in [space] and in its points."""
    points = document.get("points")
    for table in (document["train"], *(points if isinstance(points, list) else ())):
        if isinstance(table, dict) and option in table:
            yield table[option]
    space = document.get("space")
    searched = space.get(option) if isinstance(space, dict) else None
    if isinstance(searched, dict):
        searched = searched.get("choices", [searched[end] for end in ("low", "high") if end in searched])
    yield from searched if isinstance(searched, list) else ()


def _kind_of(value: Any) -> str:
    """Return what an option's value is, in words; empty for what no option can have."""
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a string" * isinstance(value, str)


def _table_at(document: dict[str, Any], path: Iterable[str], text: str) -> dict[str, Any]:
    """Return the table at a path; missing tables are created."""
    table = document
    for key in path:
        inner = table.setdefault(key, {})
        if key in NAMED_TABLES and isinstance(inner, str):
            inner = table[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise DefinitionError(
                f"--set {shorten(text, QUOTED_LENGTH)}: {key} is {quote_value(inner)}, not a table; "
                "set that as a whole"
            )
        table = inner
    return table


def _fix_option(document: Mapping[str, Any], option: str, value: Any) -> None:
    """Remove a fixed option from [space] and the points, with all that its value rules out."""
    options, points = option_tables.option_table(document["train"]), document.get("points")
    unused = [name for name in options.used_by if _rules_out(name, option, value, options)]
    for table in points if isinstance(points, list) else ():
        _remove_keys(table, option, *unused)
    _remove_keys(document.get("space"), option)
    _remove_unreachable(document.get("space"), option, value, options)


def _remove_unreachable(tables: Any, option: str, value: Any, options: OptionTable) -> None:
    """Remove from [space] what is never searched if ``option`` is ``value``, and what depends on that."""
    given = tables.items() if isinstance(tables, dict) else ()
    for name in [name for name, each in given if _is_never_searched(name, each, option, value, options)]:
        _remove_keys(tables, name)
        _remove_unreachable(tables, name, _default_of(name, options), options)


def _default_of(option: str, options: OptionTable) -> Any:
    """Return the value of an option that a study neither fixes nor searches; None if it has none."""
    field = options.config_class.model_fields.get(option)
    return None if field is None or field.is_required() else field.default


def _is_never_searched(name: str, given: Any, option: str, value: Any, options: OptionTable) -> bool:
    when = given.get("when") if isinstance(given, dict) else None
    if not isinstance(when, dict) or option not in when:
        return _rules_out(name, option, value, options)
    return value not in (when[option] if isinstance(when[option], list) else [when[option]])


def _rules_out(name: str, option: str, value: Any, options: OptionTable) -> bool:
    """Return whether option ``name`` is unused because ``option`` is ``value``."""
    other, _ = options.used_by.get(name, ("", ()))
    return other == option and not is_used(name, {option: value}, options)


def _remove_keys(tables: Any, *keys: str) -> None:
    for key in keys:
        if isinstance(tables, dict):  # otherwise the checks refuse it later
            tables.pop(key, None)
