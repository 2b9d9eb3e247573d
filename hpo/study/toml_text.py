"""Python values as TOML: a study that is given as a dict becomes the study file that says the same."""

import datetime
import inspect
import json
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpo.errors import DefinitionError, quote_value


def dump_document(document: Mapping[str, Any], where: str) -> str:
    """Return a study document as the text of a study file.

    Args:
        document: What ``tomllib`` would read: tables are mappings, ``points`` is a list of mappings.
        where: The document, as error messages name it.

    Raises:
        DefinitionError: Something in it is of a type that TOML does not have.
    """
    return "\n".join(_lines(document, where)) + "\n"


def _lines(document: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield the lines: plain values first, since what follows the head of a table belongs to the table."""
    tables = {key: each for key, each in document.items() if _is_table(each)}
    for key, each in document.items():
        if key not in tables:
            yield f"{_key(key, where)} = {dump_value(each, f'{where}: {key}')}"
    for key, each in tables.items():
        head = f"[{_key(key, where)}]" if isinstance(each, Mapping) else f"[[{_key(key, where)}]]"
        for table in [each] if isinstance(each, Mapping) else each:
            yield ""
            yield head
            for name, value in table.items():
                yield f"{_key(name, where)} = {dump_value(value, f'{where}: {key}.{name}')}"


def _is_table(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and bool(value)
    return isinstance(value, Mapping) or (is_list and all(isinstance(each, Mapping) for each in value))


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise DefinitionError(f"{where}: want the names of options as keys, found {quote_value(key)}")
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quote(key)


def dump_value(value: Any, where: str) -> str:
    """Return a value on one line of TOML. Numbers of numpy and paths become plain numbers and strings.

    Args:
        value: The value.
        where: Its place, as error messages name it.

    Raises:
        DefinitionError: It is of a type that TOML does not have.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, str | os.PathLike):
        return _quote(os.fspath(value))
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        items = (
            f"{_key(key, where)} = {dump_value(each, f'{where}.{key}')}" for key, each in value.items()
        )
        return f"{{ {', '.join(items)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(dump_value(each, where) for each in value)}]"
    raise DefinitionError(
        f"{where}: want a number, a string, true or false, a list or a dict, "
        f"found {value!r}{_advice(value)}"
    )


def _advice(value: Any) -> str:
    if value is None:
        return "; leave the option out"
    if not inspect.isfunction(value):
        return ""
    module, name = value.__module__, value.__name__
    call = f"; run(objective={name}) takes an objective itself" if module == "__main__" else ""
    return f'; give its name, "{module}:{name}"{call}'


def _quote(text: Any) -> str:
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")
