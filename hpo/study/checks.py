"""Checks of the values in a study file.

Each check raises a ``DefinitionError`` of one line: where, what was found and what is allowed. What is
allowed comes from the pydantic models; ``field_schema`` turns a field into the JSON Schema that error
messages and ``hpo schema`` both use.

Parameters that many functions share:
    where: the study file, as error messages name it.
    section: the table that holds a key, as ``search.pruner``; empty at the top level.
    key: the full name of a value, as ``search.pruner.name``.
"""

import contextlib
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hpo.errors import QUOTED_LENGTH, DefinitionError, quote_value, suggestion
from hpo.study.hints import describe_hint

Record = TypeVar("Record", bound=BaseModel)

MAX_LISTED = 20  # options of a table that a message lists; of more it says where they are documented
INT64 = (-(2**63), 2**63 - 1)  # the smallest and largest whole numbers that a database stores

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "date-time": "a date and time such as 2030-01-31T18:00:00Z, without quotes",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "of a length of at least",
}


class Problems:
    """Collects the problems of checks that do not depend on each other, so that all are told at once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._found: list[str] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the problems of a DefinitionError instead of raising it; each text once."""
        try:
            yield
        except DefinitionError as error:
            self._found += [each for each in error.problems if each not in self._found]

    def report(self) -> None:
        """Raise one DefinitionError if any was kept.

        Raises:
            DefinitionError: The only one as it is, or the texts of all, numbered.
        """
        if len(self._found) == 1:
            raise DefinitionError(self._found[0])
        if self._found:
            start = f"{self._where}: "
            texts = [f"({n}) {text.removeprefix(start)}" for n, text in enumerate(self._found, 1)]
            listed = "; ".join(texts).replace("?; (", "? (")
            raise DefinitionError(f"{start}{len(texts)} problems: {listed}", self._found)


def dotted_key(section: str, key: str) -> str:
    """Return a key with its section in front, quoted where TOML requires it; a very long one is cut."""
    bare = re.fullmatch(rf"[A-Za-z0-9_-]{{1,{QUOTED_LENGTH}}}", key)
    return f"{section}." * bool(section) + (key if bare else quote_value(key))


def check_storable(value: Any, where: str, key: str = "") -> None:
    """Refuse values, at any depth, that a file or ``--set`` can express but no store can hold.

    These are inf, nan, whole numbers of more than 64 bits, and strings that UTF-8 cannot encode.

    Args:
        value: A value, list or table as ``tomllib`` reads it.
        where: The study file, as error messages name it.
        key: The full name of the value; empty for a whole document.

    Raises:
        DefinitionError: If there is such a value; it names the first.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            check_storable(each, where, dotted_key(key, name))
    elif isinstance(value, list):
        for index, each in enumerate(value, 1):
            check_storable(each, where, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DefinitionError(f"{where}: {key}: want a finite number, found {value}")
    elif isinstance(value, int) and not INT64[0] <= value <= INT64[1]:
        raise DefinitionError(f"{where}: {key}: want a number of at most 64 bits, found a larger one")
    elif isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise DefinitionError(f"{where}: {key}: want a string in UTF-8, found {quote_value(value)}")


def require_table(value: Any, where: str, key: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a table.

    Raises:
        DefinitionError: If it is something else.
    """
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{where}: {key}: want a table, found {quote_value(value)}")
    return value


def check_keys(
    given: Iterable[str],
    allowed: Iterable[str] | None,
    where: str,
    section: str,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse unknown keys.

    Args:
        given: The keys of a table.
        allowed: The keys that it may have; None allows every key.
        where: The study file, as error messages name it.
        section: The name of the table; empty for the whole file.
        hints: What to say of names that other programs use (``hints``).

    Raises:
        DefinitionError: If keys are not allowed; it names all of them, and the keys that are allowed, or
            where to find these.
    """
    if allowed is None:
        return
    names = sorted(allowed)
    unknown = [key for key in given if key not in names]
    listed = f"options: {', '.join(names)}"
    if len(names) > MAX_LISTED:
        listed = f"'hpo schema' and docs/reference/study-file.md have all {len(names)} options"
    problems = Problems(where)
    for key in unknown:
        hint = describe_hint(key, names, hints)
        end = "" if hint.endswith("?") else ";"
        options = f"{hint}{end} {listed}" if key == unknown[-1] else hint
        with problems.collect():
            raise DefinitionError(f"{where}: {dotted_key(section, key)} is not an option{options}")
    problems.report()


def validate_record(
    kind: type[Record],
    given: Mapping[str, Any],
    where: str,
    section: str,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Record:
    """Return a table as a checked record, with defaults; tables within it become records, too.

    Args:
        kind: The pydantic model, which has a default for every field.
        given: The table.
        where: The study file, as error messages name it.
        section: The name of the table.
        hints: What to say of names that other programs use (``hints``).

    Raises:
        DefinitionError: If a key is unknown, a value is not allowed, or an inner table is none.
    """
    problems = Problems(where)
    with problems.collect():
        check_keys(given, kind.model_fields, where, section, hints)
    checked = {}
    for name in (name for name in given if name in kind.model_fields):
        with problems.collect():
            checked[name] = _validate_entry(kind, name, given[name], where, f"{section}.{name}")
    problems.report()
    return kind.model_validate(checked)


def _validate_entry(kind: type[BaseModel], name: str, value: Any, where: str, key: str) -> Any:
    """Return a value as the type of a model's field; a table becomes a record if the field is one."""
    inner = inner_model(kind.model_fields[name])
    if inner is None:
        return validate_field(kind, name, value, where, key)
    return validate_record(inner, require_table(value, where, key), where, key)


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is itself a table; None for other fields."""
    inner = field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def validate_field(kind: type[BaseModel], name: str, value: Any, where: str, key: str) -> Any:
    """Return a value as the type of a model's field: 1 for a float becomes 1.0.

    Args:
        kind: The pydantic model.
        name: The field.
        value: The value as ``tomllib`` reads it.
        where: The study file, as error messages name it.
        key: The full name of the value.

    Raises:
        DefinitionError: If the field does not allow the value; it says what the field allows.
    """
    try:
        return _field_adapter(kind, name).validate_python(value, strict=True)
    except ValidationError:
        _raise_invalid_value(kind.model_fields[name], value, where, key)


def is_valid(kind: type[BaseModel], name: str, value: Any) -> bool:
    """Return whether a model's field allows a value."""
    try:
        _field_adapter(kind, name).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@functools.cache
def _field_adapter(kind: type[BaseModel], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(kind.model_fields[name].rebuild_annotation())


def _raise_invalid_value(field: FieldInfo, found: Any, where: str, key: str) -> NoReturn:
    schema = field_schema(field)
    if "enum" in schema or "const" in schema:  # one of several values, or the only one
        names = schema["enum"] if "enum" in schema else [schema["const"]]
        raise DefinitionError(
            f"{where}: {key}: found {quote_value(found)}{suggestion(str(found), names) or ';'} "
            f"allowed: {', '.join(names)}"
        )
    raise DefinitionError(f"{where}: {key}: want {describe_schema(schema)}, found {quote_value(found)}")


def describe_schema(schema: Mapping[str, Any]) -> str:
    """Describe in words what the JSON Schema of one value allows."""
    if "anyOf" in schema:
        return ", or ".join(map(describe_schema, schema["anyOf"]))
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "pattern" in schema:
        described = str(schema["description"])
        return described[0].lower() + described[1:].rstrip(".")
    if schema["type"] == "array":
        return f"a list of {schema['items']['type']}s"
    bounds = [f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema]
    return ", ".join(filter(None, [_TYPES[schema.get("format", schema["type"])], " and ".join(bounds)]))


def field_schema(field: FieldInfo) -> dict[str, Any]:
    """Return the JSON Schema of a field's value, with its description and default.

    A field that may be None has the schema of its other types, and no default of None.
    """
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    # TOML has no null: an option that may be None is left out instead.
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    described = {} if field.description is None else {"description": " ".join(field.description.split())}
    has_default = field.default is not None and field.default_factory is None and not field.is_required()
    default = {"default": field.default} if has_default else {}
    return schema | described | default
