"""Other spellings of options, as timm, torchvision, ultralytics and Optuna have them.

Each is the same option wherever a study names one: in its file, with ``--set`` and with ``hpo enqueue``.
Names are replaced before anything is checked or stored, so nothing else knows of them. The options of a
custom objective have names of their own, which are left alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hpo.errors import DefinitionError, quote_value
from hpo.study.checks import Problems, dotted_key

TRAIN_ALIASES = {
    "lr_scheduler": "schedule",
    "imgsz": "image_size",
    "img_size": "image_size",
    "val_fraction": "valid_fraction",
    "pretrained": "weights",  # true or false
}
SEARCH_ALIASES = {"n_trials": "trials"}

PRETRAINED = {True: "imagenet", False: "none"}  # the values of ``weights`` that ``pretrained`` stands for

Rename = Callable[[Any, str], Any]  # the value of one option and its full name, to the value to use


def rename_aliases(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a study document in which every option has its own name.

    Args:
        document: The study file as ``tomllib`` reads it; nothing in it has been checked.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If a table has an option under two names, or ``pretrained`` is neither true nor
            false; it names all of these.
    """
    found, problems = dict(document), Problems(where)
    with problems.collect():
        found = _replace(found, "search", _rename_search, where)
    train = document.get("train")
    if not (isinstance(train, Mapping) and "objective" in train):
        for section, rename in (("train", rename_setting), ("space", _rename_space)):
            with problems.collect():
                found = _replace(found, section, rename, where)
        if isinstance(points := found.get("points"), list):
            renamed = []
            for index, point in enumerate(points, 1):
                with problems.collect():
                    is_table = isinstance(point, Mapping)
                    renamed.append(rename_setting(point, where, f"points[{index}]") if is_table else point)
            found["points"] = renamed
    problems.report()
    return found


def rename_path(
    section: str, path: list[str], value: Any, where: str, *, is_custom: bool
) -> tuple[list[str], Any]:
    """Return the path and the value of a ``--set`` with the option's own name.

    Args:
        section: The table of the study file.
        path: The keys within it; not empty.
        value: The value.
        where: ``--set``, for error messages.
        is_custom: Whether the study has a custom objective.

    Raises:
        DefinitionError: As ``rename_aliases`` does.
    """
    if is_custom and section != "search":
        return path, value
    nested = value
    for key in reversed(path):
        nested = {key: nested}
    table, renamed = rename_aliases({section: nested}, where)[section], []
    for _ in path:
        ((key, table),) = table.items()
        renamed.append(key)
    return renamed, table


def rename_setting(given: Mapping[str, Any], where: str, section: str) -> dict[str, Any]:
    """Return a table of options and values, such as a point, with the options' own names.

    Raises:
        DefinitionError: As ``rename_aliases`` does.
    """
    return _rename(given, TRAIN_ALIASES, where, section, _weights_of_pretrained(where))


def _rename_search(given: Mapping[str, Any], where: str, section: str) -> dict[str, Any]:
    return _rename(given, SEARCH_ALIASES, where, section, lambda value, key: value)


def _rename_space(given: Mapping[str, Any], where: str, section: str) -> dict[str, Any]:
    """Rename the options that are searched, and those in their conditions."""
    convert = _weights_of_pretrained(where)

    def convert_listed(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [convert(each, f"{key}[{index}]") for index, each in enumerate(value, 1)]
        if isinstance(value, Mapping) and "choices" in value:
            return {**value, "choices": convert_listed(value["choices"], key)}
        return value

    def convert_wanted(value: Any, key: str) -> Any:
        return [convert(each, key) for each in value] if isinstance(value, list) else convert(value, key)

    found = _rename(given, TRAIN_ALIASES, where, section, convert_listed)
    for name, entry in found.items():
        if isinstance(entry, Mapping) and isinstance(when := entry.get("when"), Mapping):
            key = f"{dotted_key(section, name)}.when"
            found[name] = {**entry, "when": _rename(when, TRAIN_ALIASES, where, key, convert_wanted)}
    return found


def _rename(
    given: Mapping[str, Any], aliases: Mapping[str, str], where: str, section: str, pretrained: Rename
) -> dict[str, Any]:
    """Return a table with the options' own names; ``pretrained`` converts the values of that alias."""
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    problems = Problems(where)
    for name, value in given.items():
        option, key = aliases.get(name, name), dotted_key(section, name)
        with problems.collect():
            if option in spelled:
                raise DefinitionError(
                    f"{where}: {key}: the same option as {dotted_key(section, spelled[option])}; keep one"
                )
            found[option] = pretrained(value, key) if name == "pretrained" else value
            spelled[option] = name
    problems.report()
    return found


def _weights_of_pretrained(where: str) -> Rename:
    def convert(value: Any, key: str) -> str:
        if not isinstance(value, bool):
            raise DefinitionError(
                f"{where}: {key}: want true or false, found {quote_value(value)}; for other weights than "
                "ImageNet's, give the option weights"
            )
        return PRETRAINED[value]

    return convert


def _replace(
    document: dict[str, Any],
    section: str,
    rename: Callable[[Mapping[str, Any], str, str], dict[str, Any]],
    where: str,
) -> dict[str, Any]:
    table = document.get(section)
    if not isinstance(table, Mapping):  # refused later, if it is there
        return document
    return {**document, section: rename(table, where, section)}
